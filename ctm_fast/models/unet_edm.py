"""SongUNet: DDPM++ and NCSN++. Song et al. 2021, arXiv:2011.13456; Karras et al. 2022."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import BlockStyle
from .configs import SongConfig, resolutions
from .embeddings import FourierEmbedding, PositionalEmbedding
from .init import Draw, constant, initialise, normal, xavier_uniform
from .layers import Conv2d, Linear, Resample, group_norm, norm_of_joined
from .unet import UNet

_EPS = 1e-6
SKIP_SCALE = math.sqrt(0.5)
_GAINS = {"conv1": 1e-5, "proj": 1e-5, "qkv": math.sqrt(0.2)}  # 1 for all other layers


class SongUNet(UNet):
    """DDPM++ or NCSN++ network, optionally with a destination embedding (CTM on CIFAR-10).

    Args:
        config: see `SongConfig`.
        seed: of the initial weights.

    Raises:
        ValueError: for channels that do not divide into groups.

    Source: Karras et al. 2022, Appendix F.6; destination embedding: Kim et al. 2024, Section 5.1,
    as in the code of ctm-cifar10.
    """

    config: SongConfig

    def __init__(self, config: SongConfig, seed: int = 0) -> None:
        emb_channels = config.model_channels * config.channel_mult_emb
        style = BlockStyle(
            emb_channels=emb_channels,
            dropout=config.dropout,
            skip_scale=SKIP_SCALE,
            eps=_EPS,
            min_group=4,
            adaptive_scale=config.adaptive_scale,
            resample_filter=config.resample_filter,
            resample_proj=True,
            channels_per_head=0,
            destination=config.destination,
        )
        super().__init__(
            config,
            style,
            first_width=config.model_channels,
            attend_decoder=False,
            attend_bottleneck=True,
        )
        noise = config.noise_channels
        self.map_noise = (
            FourierEmbedding(noise, config.fourier_scale)
            if config.embedding == "fourier"
            else PositionalEmbedding(noise, endpoint=True, sin_first=True)
        )
        self.map_label = Linear(config.label_dim, noise) if config.label_dim else None
        self.map_augment = (
            Linear(config.augment_dim, noise, bias=False) if config.augment_dim else None
        )
        self.map_layer0 = Linear(noise, emb_channels)
        self.map_layer1 = Linear(emb_channels, emb_channels)
        if config.destination:
            self.map_layer0_to = Linear(noise, emb_channels)
            self.map_layer1_to = Linear(emb_channels, emb_channels)
        self.inputs = _inputs(config)
        self.outputs = _outputs(config)
        initialise(self, seed, self._rule)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def last_layer(self) -> nn.Conv2d:
        """The output convolution at full resolution."""
        conv = list(self.outputs.values())[-1].conv
        assert isinstance(conv, nn.Conv2d)
        return conv

    def embed(
        self,
        c_noise: Tensor,
        c_noise_to: Tensor | None,
        labels: Tensor | None,
        augment_labels: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """What the blocks are told: (batch or 1, emb_channels) of the level and the destination.

        Raises:
            ValueError: if a network with a destination embedding is given no destination.
        """
        if self.has_destination and c_noise_to is None:
            raise ValueError("this network needs c_noise_to, the noise level that it jumps to")
        row = before = self._class_row(labels)
        if self.map_augment is not None and augment_labels is not None:
            augment = self.map_augment(augment_labels.to(self.map_augment.weight.dtype))
            before = augment if row is None else row + augment
        emb = self.map_noise(c_noise, self.map_layer0, self.map_layer1, before)
        if c_noise_to is None:
            return emb, None
        return emb, self.map_noise(c_noise_to, self.map_layer0_to, self.map_layer1_to, row)

    def _class_row(self, labels: Tensor | None) -> Tensor | None:
        if self.map_label is None:
            return None
        # Without a class the bias still acts, as it does for a row of zeros.
        if labels is None:
            return self.map_label.bias[None]
        return self._label_rows(labels) * math.sqrt(self.label_dim) + self.map_label.bias

    def _rule(self, name: str) -> Draw:
        *path, layer, kind = name.split(".")
        if kind == "freqs":
            return normal(self.config.fourier_scale)
        if layer.startswith("norm"):
            return constant(1.0 if kind == "weight" else 0.0)
        if kind == "bias":
            return constant(0.0)
        gain = 1e-5 if path[:1] == ["outputs"] else _GAINS.get(layer, 1.0)
        return xavier_uniform(gain)


class InputSkip(nn.Module):
    """Adds the downsampled image to the activations through a 1x1 convolution."""

    def __init__(self, img_channels: int, channels: int, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.resample = Resample(taps, up=False)
        self.conv = Conv2d(img_channels, channels, 1)

    def forward(self, x: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """(activations, image), both at the resolution of `x`."""
        image = self.resample(image)
        return x + self.conv(image), image


class InputResidual(nn.Module):
    """Adds a convolved and downsampled image pyramid to the activations, and passes on the sum."""

    def __init__(self, in_channels: int, channels: int, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.resample = Resample(taps, up=False)
        self.conv = Conv2d(in_channels, channels, 3)

    def forward(self, x: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """(activations, the same), at the resolution of `x`."""
        # The filter sees the convolution's values outside the image instead of zeros.
        wider = 1 + self.resample.padding
        image = F.conv2d(image, self.conv.weight, self.conv.bias, padding=wider)
        x = (x + self.resample(image, padding=0)) * SKIP_SCALE
        return x, x


class Output(nn.Module):
    """Reads an image out of the activations and adds it to the enlarged one from below."""

    def __init__(
        self, channels: int, img_channels: int, taps: tuple[int, ...], enlarge: bool
    ) -> None:
        super().__init__()
        self.norm = group_norm(channels, _EPS, 4)
        self.conv = Conv2d(channels, img_channels, 3)
        self.resample = Resample(taps, up=True) if enlarge else None

    def forward(
        self, x: Tensor, plus: Tensor | None, below: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(image, activations) from both parts of the activations, (batch, channels, H, W) each."""
        h, x = norm_of_joined(x, self.norm, plus, SKIP_SCALE)
        out = self.conv(h)
        if below is None or self.resample is None:
            return out, x
        return out + self.resample(below), x


def _inputs(config: SongConfig) -> nn.ModuleDict:
    layers = nn.ModuleDict()
    if config.encoder == "standard":
        return layers
    channels = config.img_channels
    for size, factor in zip(resolutions(config)[1:], config.channel_mult, strict=False):
        width = config.model_channels * factor
        if config.encoder == "skip":
            layers[f"{size}x{size}"] = InputSkip(channels, width, config.resample_filter)
        else:
            layers[f"{size}x{size}"] = InputResidual(channels, width, config.resample_filter)
            channels = width
    return layers


def _outputs(config: SongConfig) -> nn.ModuleDict:
    layers = nn.ModuleDict()
    sizes, taps = resolutions(config), config.resample_filter
    for size, factor in zip(reversed(sizes), reversed(config.channel_mult), strict=True):
        if config.decoder == "skip" or size == sizes[0]:
            enlarge = config.decoder == "skip" and size != sizes[-1]
            width = config.model_channels * factor
            layers[f"{size}x{size}"] = Output(width, config.img_channels, taps, enlarge)
    return layers
