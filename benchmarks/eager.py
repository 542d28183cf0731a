"""What a user of plain PyTorch would write in place of each op, and how the op is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ctm_fast.kernels import Op

Tensor = torch.Tensor
Factor = torch.Tensor | None


CHANNELS = {
    "adm": ("part", "head", "width"),
    "adm-legacy": ("head", "part", "width"),
    "edm": ("head", "width", "part"),
}
"""Order of the channels of packed queries, keys and values, slowest first."""


@dataclass(frozen=True)
class Plain:
    """The plain PyTorch beside one op."""

    call: Callable[..., Any] | None = None  # takes the op's arguments; None: its reference
    fixed: tuple[str, ...] = ()  # floating arguments that no training differentiates
    reread: tuple[str, ...] | None = None  # arguments a backward has to read again; None: all
    memory_bound: bool = True  # whether bytes per second tell how good a kernel is


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    scale: Factor = None,
    shift: Factor = None,
    pre: Factor = None,
    act: bool = False,
    residual: Factor = None,
    residual_scale: float = 1.0,
    tail: Factor = None,
    norm: Callable[..., Tensor] = F.group_norm,
) -> Any:
    """The op of that name by `F.group_norm`, `addcmul` and `silu`, in x's dtype and layout."""
    dtype = x.dtype
    summed = join(x, tail, residual, residual_scale)
    h = summed if pre is None else summed + _over_pixels(pre, dtype)
    h = norm(h, num_groups, weight.to(dtype), bias.to(dtype), eps)
    if scale is not None and shift is not None:
        h = torch.addcmul(_over_pixels(shift, dtype), h, 1 + _over_pixels(scale, dtype))
    elif scale is not None:
        h = h * (1 + _over_pixels(scale, dtype))
    elif shift is not None:
        h = h + _over_pixels(shift, dtype)
    h = F.silu(h) if act else h
    return h if residual is None and tail is None else (h, summed)


def join(x: Tensor, tail: Factor, residual: Factor = None, residual_scale: float = 1.0) -> Tensor:
    """The op of that name by a sum and `torch.cat`, in x's dtype."""
    if residual is not None:
        x = x + residual if residual_scale == 1 else (x + residual) * residual_scale
    return x if tail is None else torch.cat([x, tail], 1)


def attention(qkv: Tensor, num_heads: int, layout: str = "adm") -> Tensor:
    """The op of that name by `F.scaled_dot_product_attention`, in qkv's memory order."""
    batch, channels, height, width = qkv.shape
    sizes = {"part": 3, "head": num_heads, "width": channels // (3 * num_heads)}
    order = CHANNELS[layout]
    pixels = qkv.permute(0, 2, 3, 1)
    pixels = pixels.reshape(batch, height * width, *(sizes[axis] for axis in order))
    part, head, wide = (2 + order.index(axis) for axis in ("part", "head", "width"))
    packed = pixels.permute(part, 0, head, 1, wide)
    if qkv.is_cuda and packed.stride(4) != 1:
        packed = packed.contiguous()  # the fused kernels refuse channels that lie apart
    q, k, v = packed.unbind()
    out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).reshape(batch, height, width, channels // 3).permute(0, 3, 1, 2)


def _over_pixels(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype)[:, :, None, None]


EAGER: dict[str, Plain] = {
    "group_norm": Plain(group_norm),
    "join": Plain(join, reread=()),
    "attention": Plain(attention, memory_bound=False),
    "time_embedding": Plain(fixed=("c_noise", "frequencies"), memory_bound=False),
    # The factors of images are functions of noise levels, which nobody differentiates.
    "jump": Plain(fixed=("P", "Q"), reread=("P", "Q")),
    "affine": Plain(memory_bound=False),
}
"""By op. An op without an entry is compared with its reference, all gradients asked for."""


def plain(op: Op) -> Plain:
    """The entry of an op."""
    return EAGER.get(op.name, Plain())


def eager(op: Op) -> Callable[..., Any]:
    """What plain PyTorch calls in place of an op, with the op's arguments."""
    return plain(op).call or op.reference
