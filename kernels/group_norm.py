"""Group norm with what surrounds it in a U-Net: residual sum, bias, scale and shift, SiLU."""

from typing import Any

import torch
import torch.nn.functional as F

from . import _native, _triton
from ._group_norm_call import READY, short_way
from ._group_norm_cases import BENCH, BENCH_GPU, CASES, example
from ._group_norm_native import native_group_norm
from ._group_norm_native import registered as native_registered
from ._group_norm_triton import DEEPEST, launches, triton_group_norm
from ._group_norm_triton import registered as triton_registered
from ._join_op import check_image, check_joined, image_layout
from .arguments import same_dense_layout
from .join import join, torch_join
from .op import Op

Tensor = torch.Tensor
Factor = torch.Tensor | None
COMPILED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def reference(
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
) -> Tensor | tuple[Tensor, Tensor]:
    """Normalised images, act((1 + scale) (weight n + bias) + shift), n = normalised (x + pre).

    With a residual, x is first replaced by residual_scale (x + residual), rounded to x's dtype;
    with a tail, its channels are then appended. What was normalised is returned too in both cases.
    Computed in float32 (float64 for a float64 x) and rounded once, also under autocast.

    Args:
        x: (batch, channels, H, W) of a floating dtype.
        num_groups: mean and variance are shared by channels / num_groups neighbouring channels,
            those of tail among them.
        weight, bias: (channels,), tail's among them, in float32, bfloat16, float16 or x's dtype.
        eps: added to the variance.
        scale, shift, pre: (batch or 1, channels) in one of these dtypes too, or None.
        act: whether SiLU follows.
        residual: shape and dtype of x, or None.
        residual_scale: factor of the sum.
        tail: (batch, more channels, H, W) in x's dtype, or None.

    Returns:
        y: (batch, channels and tail's, H, W) in x's dtype; with a residual or a tail
        (y, normalised), the images that `join` makes.

    Raises:
        ValueError: shapes or dtypes do not fit together.

    Source: Wu and He 2018 (arXiv:1803.08494), Eqs. 1 to 6; scale and shift: Dhariwal and
    Nichol 2021 (arXiv:2105.05233), Section 3.1.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    joins = residual is not None or tail is not None
    if joins:
        x = join.reference(x, tail, residual, residual_scale)
    h = x.to(wide)
    if pre is not None:
        h = h + _over_pixels(pre, wide)
    h = h.unflatten(1, (num_groups, -1))
    h = h - h.mean((2, 3, 4), keepdim=True)
    h = h * (h.square().mean((2, 3, 4), keepdim=True) + eps).rsqrt()
    h = h.flatten(1, 2) * weight.to(wide)[:, None, None] + bias.to(wide)[:, None, None]
    if scale is not None:
        h = h * (1 + _over_pixels(scale, wide))
    if shift is not None:
        h = h + _over_pixels(shift, wide)
    y = (F.silu(h) if act else h).to(x.dtype)
    return (y, x) if joins else y


def torch_group_norm(
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
) -> Tensor | tuple[Tensor, Tensor]:
    """`reference` with every step after the norm in x's dtype, and the norm too without `pre`."""
    dtype = x.dtype
    joins = residual is not None or tail is not None
    if joins:
        x = torch_join(x, tail, residual, residual_scale)
    # Rounding x + pre would cost more accuracy than all other steps together.
    wide = dtype if pre is None else torch.promote_types(dtype, torch.float32)
    h = x if pre is None else x.to(wide) + _over_pixels(pre, wide)
    # Contiguous: in channels-last order ATen's CPU kernel takes the variance as E[x^2] - E[x]^2,
    # and its forward mode fails. Not F.group_norm: that one refuses a group of one value.
    affine = weight.to(wide), bias.to(wide)
    h = torch.group_norm(h.contiguous(), num_groups, *affine, eps).to(dtype)
    h = h.contiguous(memory_format=image_layout(x))
    if scale is not None and shift is not None:
        h = torch.addcmul(_over_pixels(shift, dtype), h, 1 + _over_pixels(scale, dtype))
    elif scale is not None:
        h = h * (1 + _over_pixels(scale, dtype))
    elif shift is not None:
        h = h + _over_pixels(shift, dtype)
    y = F.silu(h) if act else h
    return (y, x) if joins else y


def _over_pixels(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype)[:, :, None, None]


def check(
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
) -> None:
    """Raises ValueError unless the arguments fit together."""
    check_image(x)
    check_joined(x, tail, residual)
    batch, channels = x.shape[:2]
    if tail is not None:
        channels += tail.shape[1]
    if num_groups < 1 or channels % num_groups:
        raise ValueError(f"{channels} channels do not divide into {num_groups} groups")
    if not eps >= 0:
        raise ValueError(f"eps is {eps}; it must not be negative")
    for name, vector in (("weight", weight), ("bias", bias)):
        if vector.shape != (channels,):
            raise ValueError(f"{name} has shape {tuple(vector.shape)}; it must be ({channels},)")
    for name, row in (("scale", scale), ("shift", shift), ("pre", pre)):
        if row is not None and row.shape not in ((batch, channels), (1, channels)):
            raise ValueError(
                f"{name} has shape {tuple(row.shape)}; it must be ({batch} or 1, {channels})"
            )
    names = ("weight", "bias", "scale", "shift", "pre")
    for name, values in zip(names, (weight, bias, scale, shift, pre)):
        if values is not None and values.dtype not in (*COMPILED_DTYPES, x.dtype):
            allowed = sorted({str(dtype) for dtype in (*COMPILED_DTYPES, x.dtype)})
            raise ValueError(f"{name} is {values.dtype}; it must be one of {allowed}")


def unsupported(
    backend: str, x: Tensor, num_groups: int, weight: Tensor, *args: Any, **kwargs: Any
) -> str | None:
    """Reason why the compiled kernels cannot run this call, or None."""
    if backend == "torch":
        return None
    if backend == "native" and x.is_cuda:
        return "native has no group norm on CUDA"
    if x.dtype not in COMPILED_DTYPES:
        return f"{backend} computes in float32, which a {x.dtype} x does not allow"
    if not same_dense_layout(x):
        return f"{backend} needs an x that is contiguous or channels-last"
    if backend == "triton":
        channels = weight.shape[0]
        if channels > num_groups * DEEPEST:
            return f"triton needs groups of at most {DEEPEST} channels"
        if channels * x.shape[2] * x.shape[3] >= 2**31:
            return "triton needs samples of less than 2^31 elements"
    return None


def registered(*args: Any, **kwargs: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    """Registered ops of the backends that can run here, each with arguments."""
    tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
    found = ((_native, native_registered), (_triton, triton_registered))
    return [
        call
        for machine, calls in found
        if machine.why_not(tensors) is None
        for call in calls(*args, **kwargs)
    ]


group_norm = Op(
    "group_norm",
    reference,
    torch=torch_group_norm,
    triton=triton_group_norm,
    native=native_group_norm,
    check=check,
    unsupported=unsupported,
    registered=registered,
    differentiable=True,
    example=example,
    cases=CASES,
    bench=BENCH,
    bench_gpu=BENCH_GPU,
    launches=launches,
    quick=short_way if READY else None,
)
