"""Attention on a CPU's matrix tiles, for networks that are only run."""

import torch

from . import _native
from ._tiles import ABSENT, unwatched

Tensor = torch.Tensor

WIDE = 32
"""Pixels and channels of a head must divide by it."""


def tiled_attention(qkv: Tensor, num_heads: int, layout: str = "adm") -> Tensor | None:
    """`attention.reference` of bfloat16 images, or None for a call that does not fit or needs more.

    Taken are channels-last images on the CPU in layout "adm", without gradient, whose pixels and
    head widths divide by 32. Products are summed in float32, weights rounded to bfloat16.
    """
    if (
        ABSENT is not None
        or layout != "adm"
        or not isinstance(qkv, Tensor)
        or qkv.dtype != torch.bfloat16
        or not qkv.is_cpu
        or qkv.ndim != 4
        or (torch.is_grad_enabled() and qkv.requires_grad)
        or not unwatched(qkv)
    ):
        return None
    batch, channels, height, width = qkv.shape
    pixels = height * width
    if num_heads < 1 or batch * pixels * channels == 0 or pixels % WIDE:
        return None
    if channels % (3 * num_heads * WIDE) or not qkv.is_contiguous(
        memory_format=torch.channels_last
    ):
        return None
    out = torch.empty(
        (batch, channels // 3, height, width), dtype=qkv.dtype, memory_format=torch.channels_last
    )
    _native.module.attention(
        *(qkv.data_ptr(), out.data_ptr(), batch, pixels, num_heads, channels // (3 * num_heads)),
        torch.get_num_threads(),
    )
    return out
