"""Encoder and decoder of a U-Net: levels of blocks, one level per resolution."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from .blocks import BlockStyle, ConvResample, ResBlock
from .configs import Config, resolutions

Block = ResBlock | ConvResample


def encoder(config: Config, style: BlockStyle, first_width: int) -> tuple[nn.ModuleDict, list[int]]:
    """Levels by "HxW", finest first, and the channels of everything the decoder takes from them.

    Args:
        config: sizes.
        style: what all blocks have in common.
        first_width: channels of the input.
    """
    side, skips, channels = nn.ModuleDict(), [first_width], first_width
    for size, factor in zip(resolutions(config), config.channel_mult, strict=True):
        width = config.model_channels * factor
        level = side[f"{size}x{size}"] = nn.ModuleDict()
        if len(side) > 1:
            level["down"] = _resampling(channels, style, up=False)
            skips.append(channels)
        for i in range(config.num_blocks):
            attend = size in config.attn_resolutions
            level[f"block{i}"] = ResBlock(channels, width, style, attention=attend)
            skips.append(width)
            channels = width
    return side, skips


def decoder(
    config: Config,
    style: BlockStyle,
    skips: list[int],
    attend_everywhere: bool,
    attend_bottleneck: bool,
) -> nn.ModuleDict:
    """Levels by "HxW", coarsest first; it begins with the bottleneck.

    Args:
        config: sizes.
        style: what all blocks have in common.
        skips: what `encoder` said.
        attend_everywhere: attention in every block of an attention resolution; False: in the last
            one only.
        attend_bottleneck: attention between encoder and decoder.
    """
    side, channels, skips = nn.ModuleDict(), skips[-1], list(skips)
    for size, factor in reversed([*zip(resolutions(config), config.channel_mult, strict=True)]):
        width = config.model_channels * factor
        level = side[f"{size}x{size}"] = nn.ModuleDict()
        if len(side) == 1:
            level["in0"] = ResBlock(channels, channels, style, attention=attend_bottleneck)
            level["in1"] = ResBlock(channels, channels, style)
        else:
            level["up"] = _resampling(channels, style, up=True)
        for i in range(config.num_blocks + 1):
            attend = size in config.attn_resolutions
            attend = attend and (attend_everywhere or i == config.num_blocks)
            incoming = channels + skips.pop()
            level[f"block{i}"] = ResBlock(incoming, width, style, attention=attend)
            channels = width
    return side


def levels(side: nn.ModuleDict) -> Iterator[tuple[str, dict[str, Block]]]:
    """("HxW", blocks by name) of every resolution, in the order in which they run."""
    for size, level in side.items():
        assert isinstance(level, nn.ModuleDict)
        yield size, dict(level.items())  # type: ignore[arg-type]


def blocks_of(side: nn.ModuleDict) -> list[ResBlock]:
    """All residual blocks, in the order in which they run."""
    blocks = (block for _, level in levels(side) for block in level.values())
    return [block for block in blocks if isinstance(block, ResBlock)]


def _resampling(channels: int, style: BlockStyle, up: bool) -> Block:
    if style.conv_resampling:
        return ConvResample(channels, style, up)
    return ResBlock(channels, channels, style, up=up, down=not up)
