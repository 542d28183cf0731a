"""ADMUNet: the ADM and DDPM networks. Dhariwal & Nichol 2021; Ho et al. 2020."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .blocks import BlockStyle, ResBlock
from .configs import ADMConfig
from .embeddings import PositionalEmbedding
from .init import Draw, constant, initialise, normal, uniform
from .layers import Conv2d, Linear, group_norm, norm_of_joined
from .levels import levels
from .unet import UNet

_ZERO_LAYERS = ("conv1", "proj", "map_augment")


class ADMUNet(UNet):
    """ADM network of openai, sony/ctm and EDM, and DDPM's; optionally with a destination (CTM).

    Args:
        config: see `ADMConfig`.
        seed: of the initial weights.

    Raises:
        ValueError: for channels that do not divide into groups or heads.

    Source: Dhariwal & Nichol 2021, Section 3; destination embedding: the code of sony/ctm.
    """

    config: ADMConfig

    def __init__(self, config: ADMConfig, seed: int = 0) -> None:
        emb_channels = config.model_channels * config.channel_mult_emb
        style = BlockStyle(
            emb_channels=emb_channels,
            dropout=config.dropout,
            skip_scale=1.0,
            eps=config.eps,
            min_group=config.min_group,
            adaptive_scale=config.adaptive_scale,
            resample_filter=(1, 1),
            resample_proj=False,
            channels_per_head=config.channels_per_head,
            destination=config.destination,
            num_heads=config.num_heads,
            max_groups=config.max_groups,
            conv_resampling=config.resampling == "conv",
            pad_after=config.conv_padding == "after",
        )
        width = config.model_channels * config.channel_mult[0]
        super().__init__(
            config,
            style,
            first_width=width,
            attend_decoder=True,
            attend_bottleneck=config.bottleneck_attention,
        )
        noise = config.noise_channels
        self.map_noise = PositionalEmbedding(noise, config.endpoint, config.sin_first)
        self.map_label = (
            Linear(config.label_dim, emb_channels, bias=False) if config.label_dim else None
        )
        self.map_augment = (
            Linear(config.augment_dim, noise, bias=False) if config.augment_dim else None
        )
        self.map_layer0 = Linear(noise, emb_channels)
        self.map_layer1 = Linear(emb_channels, emb_channels)
        if config.destination:
            self.map_layer0_to = Linear(noise, emb_channels)
            self.map_layer1_to = Linear(emb_channels, emb_channels)
        self.inputs = nn.ModuleDict()
        size = config.img_resolution
        self.outputs = nn.ModuleDict({f"{size}x{size}": Output(width, config)})
        initialise(self, seed, self._rule)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def last_layer(self) -> nn.Conv2d:
        """Second convolution of the last residual block, as in sony/ctm."""
        blocks = list(levels(self.dec))[-1][1]
        last = list(blocks.values())[-1]
        assert isinstance(last, ResBlock)
        return last.conv1

    def embed(
        self,
        c_noise: Tensor,
        c_noise_to: Tensor | None,
        labels: Tensor | None,
        augment_labels: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """What the blocks are told: (batch or 1, emb_channels) of the level and the destination.

        Without `c_noise_to` the destination is left out altogether.
        """
        before = after = None
        if self.map_augment is not None and augment_labels is not None:
            before = self.map_augment(augment_labels.to(self.map_augment.weight.dtype))
        if self.map_label is not None and labels is not None:
            after = self._label_rows(labels)
        emb = self.map_noise(c_noise, self.map_layer0, self.map_layer1, before, after)
        if c_noise_to is None:
            return emb, None
        return emb, self.map_noise(c_noise_to, self.map_layer0_to, self.map_layer1_to)

    def _rule(self, name: str) -> Draw:
        *path, layer, kind = name.split(".")
        if layer.startswith("norm"):
            return constant(1.0 if kind == "weight" else 0.0)
        if layer in _ZERO_LAYERS or path[:1] == ["outputs"]:
            return constant(0.0)
        if layer == "map_label":
            return normal(1.0)
        weight = self.get_submodule(".".join([*path, layer])).weight
        assert isinstance(weight, Tensor)
        return uniform(1 / math.sqrt(math.prod(weight.shape[1:])))


class Output(nn.Module):
    """Reads the image out of the last activations."""

    def __init__(self, channels: int, config: ADMConfig) -> None:
        super().__init__()
        self.norm = group_norm(channels, config.eps, config.min_group, config.max_groups)
        self.conv = Conv2d(channels, config.img_channels, 3)

    def forward(
        self, x: Tensor, plus: Tensor | None, below: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(image, activations) from both parts of the activations, (batch, channels, H, W) each."""
        h, x = norm_of_joined(x, self.norm, plus)
        return self.conv(h), x
