"""The blocks of all U-Nets here: residual, with attention where asked for, and resampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from .. import kernels
from .layers import Conv2d, Linear, Resample, group_norm, norm_act, norm_of_joined


@dataclass(frozen=True)
class BlockStyle:
    """What all blocks of one network have in common."""

    emb_channels: int  # width of the noise embedding
    dropout: float  # probability in [0, 1)
    skip_scale: float  # factor on every residual sum
    eps: float  # of the group norms
    min_group: int  # least channels per group of the group norms
    adaptive_scale: bool  # embedding scales and shifts after the norm; else it is added before it
    resample_filter: tuple[int, ...]  # taps, see `Resample`
    resample_proj: bool  # 1x1 convolution on the skip path of every resampling block
    channels_per_head: int  # width of an attention head; 0: num_heads of equal width
    destination: bool  # second embedding, of the noise level that is jumped to
    num_heads: int = 1  # attention heads, where channels_per_head is 0
    max_groups: int = 32  # most groups of the group norms
    conv_resampling: bool = False  # convolutions resample, see `ConvResample`; else blocks do
    pad_after: bool = False  # zeros of a halving convolution only right and below


class ResBlock(nn.Module):
    """Norm, convolution, modulation by the noise level, convolution, skip; then attention.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        style: see `BlockStyle`.
        up: doubles height and width.
        down: halves them.
        attention: self-attention over all pixels at the end.

    Raises:
        ValueError: if the channels do not divide into groups or heads.

    Source: Dhariwal & Nichol 2021 (BigGAN block); Song et al. 2021; second embedding: CTM's code.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style: BlockStyle,
        *,
        up: bool = False,
        down: bool = False,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.dropout = style.dropout
        self.skip_scale = style.skip_scale
        self.adaptive_scale = style.adaptive_scale
        self.bias_in_norm = False  # where a convolution's own bias is a pass over the image
        self.num_heads = _heads(out_channels, style) if attention else 0
        width = out_channels * (2 if style.adaptive_scale else 1)
        groups = (style.eps, style.min_group, style.max_groups)
        self.norm0 = group_norm(in_channels, *groups)
        self.resample = Resample(style.resample_filter, up) if up or down else None
        self.conv0 = Conv2d(in_channels, out_channels, 3)
        self.affine = Linear(style.emb_channels, width)
        self.affine_to = Linear(style.emb_channels, width) if style.destination else None
        self.norm1 = group_norm(out_channels, *groups)
        self.conv1 = Conv2d(out_channels, out_channels, 3)
        project = in_channels != out_channels or ((up or down) and style.resample_proj)
        self.skip = Conv2d(in_channels, out_channels, 1) if project else None
        if self.num_heads:
            self.norm2 = group_norm(out_channels, *groups)
            self.qkv = Conv2d(out_channels, 3 * out_channels, 1)
            self.proj = Conv2d(out_channels, out_channels, 1)

    def forward(
        self,
        x: Tensor,
        modulation: Sequence[Tensor],
        plus: Tensor | None = None,
        tail: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(entered, shortcut, branch); the block's output is skip_scale (shortcut + branch).

        That sum is left to whoever reads it: a norm takes it, and the concatenation with a skip,
        for next to nothing; see `settled` for all others. `entered` is what this block made of its
        own input in that way, (batch, in_channels, H, W).

        Args:
            x: (batch, in_channels, H, W), channels-last.
            modulation: what `affine`, and `affine_to` added to it, make of the noise embedding:
                scale and shift, or bias, each (batch or 1, out_channels).
            plus: the input is skip_scale (x + plus) instead of x.
            tail: further channels of the input, which x then lacks.
        """
        h, entered = norm_of_joined(x, self.norm0, plus, self.skip_scale, tail)
        if self.resample is not None:
            h = self.resample(h)
        left = self.conv0.bias if self.bias_in_norm else None
        h = self.conv0(h) if left is None else self.conv0.without_bias(h)
        bias = None if left is None else left[None]
        if self.adaptive_scale:
            scale, shift = modulation
            h = norm_act(h, self.norm1, bias=bias, scale=scale, shift=shift)
        else:
            (told,) = modulation
            h = norm_act(h, self.norm1, bias=told if bias is None else told + bias)
        if self.dropout and self.training:
            h = F.dropout(h, self.dropout)
        h, x = self.conv1(h), self._shortcut(entered)
        if self.num_heads:
            h, x = norm_of_joined(h, self.norm2, x, self.skip_scale, act=False)
            h = self.proj(kernels.attention(self.qkv(h), self.num_heads))
        return entered, x, h

    def _shortcut(self, x: Tensor) -> Tensor:
        # A 1x1 convolution commutes with nearest-neighbour doubling and is 4 times cheaper first.
        skip, resample = self.skip, self.resample
        if resample is None:
            return x if skip is None else skip(x)
        if skip is None:
            return resample(x)
        return resample(skip(x)) if resample.up and resample.is_box else skip(resample(x))


class ConvResample(nn.Module):
    """Halves height and width by a strided 3x3 convolution, or doubles them and convolves.

    It stands where a resampling `ResBlock` may stand, but is told nothing of the noise level.

    Args:
        channels: of input and output.
        style: see `BlockStyle`.
        up: True to double, False to halve.

    Source: Ho et al. 2020 (DDPM), Appendix B.
    """

    num_heads = 0  # no attention

    def __init__(self, channels: int, style: BlockStyle, up: bool) -> None:
        super().__init__()
        self.skip_scale = style.skip_scale
        self.resample = Resample((1, 1), up) if up else None
        self.pad_after = style.pad_after and not up
        padding = 0 if self.pad_after else 1
        self.conv = Conv2d(channels, channels, 3, stride=1 if up else 2, padding=padding)

    def forward(
        self,
        x: Tensor,
        modulation: Sequence[Tensor] = (),
        plus: Tensor | None = None,
        tail: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(entered, output, None), see `ResBlock.forward`; `modulation` and `tail` are empty."""
        assert not modulation and tail is None
        entered = settled(x, plus, self.skip_scale)
        h = entered if self.resample is None else self.resample(entered)
        if self.pad_after:
            h = F.pad(h, (0, 1, 0, 1))
        return entered, self.conv(h), None


def settled(x: Tensor, plus: Tensor | None, factor: float) -> Tensor:
    """factor (x + plus), shape of x; x itself where there is nothing to add."""
    return x if plus is None else kernels.join(x, None, plus, factor)


def _heads(channels: int, style: BlockStyle) -> int:
    width = style.channels_per_head
    # As published: 96 channels at 64 per head are one head of 96.
    heads = channels // width if width else style.num_heads
    if heads == 0 or channels % heads:
        into, change = (
            (f"heads of about {width}", "channels_per_head")
            if width
            else (f"{heads} heads", "num_heads")
        )
        raise ValueError(
            f"attention with {channels} channels does not divide into {into}; change {change}, "
            "attn_resolutions or bottleneck_attention"
        )
    return heads
