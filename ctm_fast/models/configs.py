"""Configurations of the networks, and their JSON form."""

from __future__ import annotations

from dataclasses import dataclass

RESIDUAL_STYLES = ("standard", "skip", "residual")


@dataclass(frozen=True)
class SongConfig:
    """U-Net of the DDPM++ and NCSN++ family; the defaults are DDPM++ for CIFAR-10.

    Raises:
        ValueError: for values that do not fit together.

    Source: Song et al. 2021 (arXiv:2011.13456), Appendix H; Karras et al. 2022, Appendix F.
    """

    img_resolution: int = 32  # height and width, pixels
    img_channels: int = 3  # channels of an image
    label_dim: int = 0  # classes; 0 is unconditional
    augment_dim: int = 0  # augmentation labels; 0 is none
    model_channels: int = 128  # width that `channel_mult` multiplies
    channel_mult: tuple[int, ...] = (2, 2, 2)  # width of each resolution, finest first
    channel_mult_emb: int = 4  # width of the noise embedding, in model_channels
    channel_mult_noise: int = 1  # width of the sines and cosines, in model_channels
    num_blocks: int = 4  # residual blocks per resolution
    attn_resolutions: tuple[int, ...] = (16,)  # resolutions with self-attention, pixels
    dropout: float = 0.13  # probability in [0, 1)
    label_dropout: float = 0.0  # probability that a training image loses its label
    embedding: str = "positional"  # positional (DDPM++) or fourier (NCSN++)
    fourier_scale: float = 16.0  # standard deviation of the Fourier frequencies
    encoder: str = "standard"  # standard, skip or residual (NCSN++): the image fed in again
    decoder: str = "standard"  # standard or skip: every resolution adds to the output
    resample_filter: tuple[int, ...] = (1, 1)  # (1, 1) for DDPM++, (1, 3, 3, 1) for NCSN++
    adaptive_scale: bool = False  # embedding scales and shifts after the norm, as in ADM
    destination: bool = False  # second embedding, of the noise level that is jumped to

    def __post_init__(self) -> None:
        _check_common(self)
        _check_choice("embedding", self.embedding, ("positional", "fourier"))
        _check_choice("encoder", self.encoder, ("standard", "skip", "residual"))
        _check_choice("decoder", self.decoder, ("standard", "skip"))
        _check_probability("label_dropout", self.label_dropout)
        _check_even("model_channels * channel_mult_noise", self.noise_channels)

    @property
    def noise_channels(self) -> int:
        """Width of the sines and cosines."""
        return self.model_channels * self.channel_mult_noise


@dataclass(frozen=True)
class ADMConfig:
    """U-Net of the ADM family; the defaults are ImageNet-64.

    `min_group=1` is openai's and sony/ctm's network, `min_group=4` is EDM's DhariwalUNet; with
    `resampling="conv"` and `adaptive_scale=False` it is DDPM's.

    Raises:
        ValueError: for values that do not fit together.

    Source: Dhariwal & Nichol 2021 (arXiv:2105.05233); Karras et al. 2022, Appendix F; Ho et al.
    2020 (arXiv:2006.11239), Appendix B.
    """

    img_resolution: int = 64  # height and width, pixels
    img_channels: int = 3  # channels of an image
    label_dim: int = 1000  # classes; 0 is unconditional
    augment_dim: int = 0  # augmentation labels; 0 is none
    model_channels: int = 192  # width that `channel_mult` multiplies
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)  # width of each resolution, finest first
    channel_mult_emb: int = 4  # width of the noise embedding, in model_channels
    num_blocks: int = 3  # residual blocks per resolution
    attn_resolutions: tuple[int, ...] = (32, 16, 8)  # resolutions with self-attention, pixels
    bottleneck_attention: bool = True  # self-attention between encoder and decoder
    channels_per_head: int = 64  # width of an attention head; 0: num_heads of equal width
    min_group: int = 1  # least channels per group of the (at most max_groups) group-norm groups
    adaptive_scale: bool = True  # embedding scales and shifts after the norm; else added before it
    dropout: float = 0.10  # probability in [0, 1)
    label_dropout: float = 0.0  # probability that a training image loses its label
    destination: bool = False  # second embedding, of the noise level that is jumped to
    num_heads: int = 1  # attention heads, where channels_per_head is 0
    max_groups: int = 32  # most group-norm groups
    eps: float = 1e-5  # of the group norms, > 0
    resampling: str = "block"  # block: residual blocks resample; conv: 3x3 convolutions do
    conv_padding: str = "both"  # zeros around a halving convolution: both, or after (DDPM's)
    channel_mult_noise: int = 1  # width of the sines and cosines, in model_channels
    sin_first: bool = False  # [sin, cos] instead of [cos, sin]
    endpoint: bool = False  # lowest frequency exactly 1e-4; False: that would be the next

    def __post_init__(self) -> None:
        _check_common(self)
        _check_probability("label_dropout", self.label_dropout)
        _check_even("model_channels * channel_mult_noise", self.noise_channels)
        _check_at_least("channels_per_head", self.channels_per_head, 0)
        _check_at_least("num_heads", self.num_heads, 1)
        if self.channels_per_head and self.num_heads > 1:
            raise ValueError(
                f"num_heads={self.num_heads} needs channels_per_head=0, got "
                f"{self.channels_per_head}: only one of them says how attention is divided"
            )
        _check_at_least("min_group", self.min_group, 1)
        _check_at_least("max_groups", self.max_groups, 1)
        if not self.eps > 0:
            raise ValueError(f"eps must be positive, got {self.eps}")
        _check_choice("resampling", self.resampling, ("block", "conv"))
        _check_choice("conv_padding", self.conv_padding, ("both", "after"))
        if self.noise_channels < 4 and self.endpoint:
            raise ValueError(f"endpoint needs at least 4 noise channels, got {self.noise_channels}")

    @property
    def noise_channels(self) -> int:
        """Width of the sines and cosines."""
        return self.model_channels * self.channel_mult_noise


Config = SongConfig | ADMConfig


def resolutions(config: Config) -> list[int]:
    """Resolutions of the U-Net in pixels, finest first."""
    return [config.img_resolution >> level for level in range(len(config.channel_mult))]


def _check_common(config: Config) -> None:
    for name in ("img_resolution", "img_channels", "model_channels", "num_blocks"):
        _check_at_least(name, getattr(config, name), 1)
    for name in ("label_dim", "augment_dim"):
        _check_at_least(name, getattr(config, name), 0)
    if not config.channel_mult:
        raise ValueError("channel_mult must name at least one resolution")
    step = 2 ** (len(config.channel_mult) - 1)
    if config.img_resolution % step:
        raise ValueError(
            f"img_resolution {config.img_resolution} does not divide by {step}, as "
            f"{len(config.channel_mult)} resolutions need"
        )
    unknown = sorted(set(config.attn_resolutions) - set(resolutions(config)))
    if unknown:
        raise ValueError(
            f"attn_resolutions {unknown} do not occur; the network has {resolutions(config)}"
        )
    _check_probability("dropout", config.dropout)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}; choose from {choices}")


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _check_even(name: str, value: int) -> None:
    if value % 2:
        raise ValueError(f"{name} must be even, got {value}")
