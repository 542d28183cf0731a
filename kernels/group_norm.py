"""Group norm with what surrounds it in a U-Net: residual sum, bias, scale and shift, SiLU."""

from typing import Any

import torch
import torch.nn.functional as F

from . import _native, _triton
from ._group_norm_native import native_group_norm
from ._group_norm_native import registered as native_registered
from ._group_norm_triton import DEEPEST, launches, triton_group_norm
from ._group_norm_triton import registered as triton_registered
from .arguments import Draw, same_dense_layout
from .op import Call, Op

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
) -> Tensor | tuple[Tensor, Tensor]:
    """Normalised images, act((1 + scale) (weight n + bias) + shift), n = normalised (x + pre).

    With a residual, x is first replaced by residual_scale (x + residual), rounded to x's dtype, and
    that sum is returned too. Computed in float32 (float64 for a float64 x) and rounded once, also
    under autocast.

    Args:
        x: (batch, channels, H, W) of a floating dtype.
        num_groups: mean and variance are shared by channels / num_groups neighbouring channels.
        weight, bias: (channels,) in float32, bfloat16, float16 or x's dtype.
        eps: added to the variance.
        scale, shift, pre: (batch or 1, channels) in one of these dtypes too, or None.
        act: whether SiLU follows.
        residual: (batch, channels, H, W) in x's dtype, or None.
        residual_scale: factor of the sum.

    Returns:
        y: (batch, channels, H, W) in x's dtype; with a residual (y, sum).

    Raises:
        ValueError: shapes or dtypes do not fit together.

    Source: Wu and He 2018 (arXiv:1803.08494), Eqs. 1 to 6; scale and shift: Dhariwal and
    Nichol 2021 (arXiv:2105.05233), Section 3.1.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    if residual is not None:
        x = ((x.to(wide) + residual.to(wide)) * residual_scale).to(x.dtype)
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
    return y if residual is None else (y, x)


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
) -> Tensor | tuple[Tensor, Tensor]:
    """`reference` with every step after the norm in x's dtype, and the norm too without `pre`."""
    dtype = x.dtype
    if residual is not None:
        x = (x + residual) if residual_scale == 1 else (x + residual) * residual_scale
    # Rounding x + pre would cost more accuracy than all other steps together.
    wide = dtype if pre is None else torch.promote_types(dtype, torch.float32)
    h = x if pre is None else x.to(wide) + _over_pixels(pre, wide)
    # Contiguous: in channels-last order ATen's CPU kernel takes the variance as E[x^2] - E[x]^2,
    # and its forward mode fails. Not F.group_norm: that one refuses a group of one value.
    affine = weight.to(wide), bias.to(wide)
    h = torch.group_norm(h.contiguous(), num_groups, *affine, eps).to(dtype)
    h = h.contiguous(memory_format=_layout(x))
    if scale is not None and shift is not None:
        h = torch.addcmul(_over_pixels(shift, dtype), h, 1 + _over_pixels(scale, dtype))
    elif scale is not None:
        h = h * (1 + _over_pixels(scale, dtype))
    elif shift is not None:
        h = h + _over_pixels(shift, dtype)
    y = F.silu(h) if act else h
    return y if residual is None else (y, x)


def _layout(x: Tensor) -> torch.memory_format:
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


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
) -> None:
    """Raises ValueError unless the arguments fit together."""
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(
            f"x is {x.dtype} of shape {tuple(x.shape)}; "
            "it must be (batch, channels, H, W) and floating"
        )
    batch, channels = x.shape[:2]
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
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        raise ValueError(
            f"residual is {residual.dtype} of shape {tuple(residual.shape)}; it must be {x.dtype} "
            f"of shape {tuple(x.shape)}, like x"
        )
    names = ("weight", "bias", "scale", "shift", "pre")
    for name, values in zip(names, (weight, bias, scale, shift, pre)):
        if values is not None and values.dtype not in (*COMPILED_DTYPES, x.dtype):
            allowed = sorted({str(dtype) for dtype in (*COMPILED_DTYPES, x.dtype)})
            raise ValueError(f"{name} is {values.dtype}; it must be one of {allowed}")


def unsupported(backend: str, x: Tensor, num_groups: int, *args: Any, **kwargs: Any) -> str | None:
    """Reason why the compiled kernels cannot run this call, or None."""
    if backend == "torch":
        return None
    if backend == "native" and x.is_cuda:
        return "native has no group norm on CUDA"
    if x.dtype not in COMPILED_DTYPES:
        return f"{backend} computes in float32, which a {x.dtype} x does not allow"
    if not same_dense_layout(x):
        return f"{backend} needs an x that is contiguous or channels-last"
    if backend == "triton" and x.shape[1] > num_groups * DEEPEST:
        return f"triton needs groups of at most {DEEPEST} channels"
    if backend == "triton" and x[:1].numel() >= 2**31:
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


def example(
    *,
    shape: tuple[int, int, int, int],
    groups: int = 2,
    dtype: torch.dtype = torch.float32,
    factors: torch.dtype = torch.float32,
    modulated: bool = True,
    pre: bool = False,
    act: bool = True,
    eps: float = 1e-5,
    residual: float | None = None,
    channels_last: bool = True,
    device: str = "cpu",
    seed: int = 0,
) -> Call:
    """Arguments of one call: images of `shape` in `dtype`, the rest in `factors`.

    `residual` is the scale of the residual sum, None for none.
    """
    draw = Draw(seed, device, channels_last)
    x = draw.normal(*shape, dtype=dtype, scale=2.0) + 1.5
    weight, bias = (draw.normal(shape[1], dtype=factors) for _ in range(2))
    rows = [draw.normal(*shape[:2], dtype=factors, scale=0.5) for _ in range(3)]
    scale, shift = rows[:2] if modulated else (None, None)
    args = (x, groups, weight, bias, eps, scale, shift, rows[2] if pre else None, act)
    if residual is None:
        return args, {}
    return (*args, draw.normal(*shape, dtype=dtype), residual), {}


BFLOAT, HALF = {"dtype": torch.bfloat16}, {"dtype": torch.float16}
CASES: list[dict[str, Any]] = [
    {"shape": (2, 6, 5, 7), "groups": 3},
    {"shape": (3, 12, 4, 3), "groups": 4, "pre": True, **BFLOAT, "factors": torch.bfloat16},
    {"shape": (2, 36, 3, 3), "groups": 2, "pre": True, **HALF, "factors": torch.float16},
    {"shape": (0, 4, 2, 2)},
    {"shape": (2, 12, 5, 3), "residual": 0.5**0.5, **BFLOAT},
    {"shape": (2, 10, 3, 7), "groups": 5, "residual": 1.0, "act": False, "modulated": False},
    {"shape": (3, 6, 7, 3), "residual": 0.7, "pre": True, "channels_last": False, **HALF},
    {"shape": (1, 192, 9, 8), "groups": 32, "modulated": False},
    {"shape": (2, 24, 9, 8), "groups": 4, "pre": True, "channels_last": False},
    {"shape": (2, 96, 5, 3), "groups": 1, **BFLOAT, "channels_last": False},
    {"shape": (3, 64, 8, 8), "groups": 32, **BFLOAT},
    {"shape": (2, 15, 9, 9), "groups": 5, **HALF, "act": False, "channels_last": False},
    {"shape": (2, 10, 16, 17), "groups": 10, "act": False, "pre": True, "modulated": False},
    {"shape": (5, 8, 1, 1), "groups": 2, "pre": True, "seed": 1},
    {"shape": (1, 1, 3, 5), "groups": 1},
    {"shape": (1, 4, 1, 1), "groups": 2},
]
BENCH: list[dict[str, Any]] = [
    {"shape": (128, 64, 8, 8), "groups": 16, **BFLOAT, "factors": torch.bfloat16},
    {"shape": (128, 64, 8, 8), "groups": 16},
    {"shape": (128, 128, 4, 4), "groups": 32, **BFLOAT, "factors": torch.bfloat16},
    {"shape": (128, 128, 4, 4), "groups": 32},
    *(
        {"shape": (8, c, w, w), "groups": 32, "modulated": modulated, **dtypes}
        for c, w in ((256, 32), (192, 64))
        for modulated in (False, True)
        for dtypes in ({**BFLOAT, "factors": torch.bfloat16}, {})
    ),
]
# Channels and width of the images in the U-Nets: DDPM++ (pre), ADM (modulated).
DDPMPP = [(256, 32), (512, 32), (256, 16), (512, 16), (384, 32), (256, 8), (512, 8), (128, 32)]
ADM = [
    *((c, 64) for c in (192, 384, 576)),
    *((c, 32) for c in (192, 384, 576, 768, 960)),
    *((c, 16) for c in (384, 576, 768, 960, 1152, 1344)),
    *((c, 8) for c in (576, 768, 1344, 1536)),
]
TRAINED = {"groups": 32, **BFLOAT, "factors": torch.bfloat16}
PRE = {**TRAINED, "modulated": False, "pre": True, "eps": 1e-6}
PLAIN = {"modulated": False, "pre": False, "act": False}
BENCH_GPU: list[dict[str, Any]] = [
    *({"shape": (64, c, w, w), **PRE} for c, w in DDPMPP),
    *({"shape": (64, c, w, w), **TRAINED} for c, w in ADM),
    *({"shape": (11, c, w, w), **PRE} for c, w in ((256, 32), (256, 16))),
    *({"shape": (11, c, w, w), **TRAINED} for c, w in ((192, 64), (384, 32), (576, 16), (768, 8))),
    *({"shape": (1, c, w, w), **TRAINED} for c, w in ((192, 64), (576, 16))),
    {"shape": (64, 256, 16, 16), **PRE, **PLAIN, "residual": 0.5**0.5},
    *(
        {"shape": (64, c, w, w), **TRAINED, **PLAIN, "residual": 1.0}
        for c, w in ((384, 32), (768, 8))
    ),
    *({"shape": (64, c, w, w), **TRAINED, **HALF} for c, w in ((192, 64), (384, 32), (576, 8))),
    *(
        {"shape": (64, c, w, w), **TRAINED, "dtype": torch.float32}
        for c, w in ((192, 64), (256, 32))
    ),
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
)
