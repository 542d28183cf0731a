"""The residual sum and the concatenation with a skip tensor, in one pass over the images."""

from typing import Any

import torch

from . import _native, _triton
from ._join_native import native_join
from ._join_native import registered as native_registered
from ._join_op import check_image, check_joined, image_layout
from ._join_triton import launches, triton_join
from ._join_triton import registered as triton_registered
from .arguments import Draw, same_dense_layout
from .op import Call, Op

Tensor = torch.Tensor
Image = torch.Tensor | None
COMPILED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def reference(
    x: Tensor, tail: Image, residual: Image = None, residual_scale: float = 1.0
) -> Tensor:
    """residual_scale (x + residual), or x without a residual, followed by the channels of tail.

    The sum is computed in float32 (float64 for a float64 x) and rounded once.

    Args:
        x: (batch, channels, H, W) of a floating dtype.
        tail: (batch, more channels, H, W) in x's dtype, or None.
        residual: (batch, channels, H, W) in x's dtype, or None.
        residual_scale: factor of the sum; without a residual there is none.

    Returns:
        joined: (batch, channels + more, H, W) in x's dtype and memory order.

    Raises:
        ValueError: shapes or dtypes do not fit together, or there is nothing to join.
    """
    if residual is not None:
        wide = torch.promote_types(x.dtype, torch.float32)
        x = ((x.to(wide) + residual.to(wide)) * residual_scale).to(x.dtype)
    return x if tail is None else _joined(x, tail)


def torch_join(
    x: Tensor, tail: Image, residual: Image = None, residual_scale: float = 1.0
) -> Tensor:
    """`reference` with every step in x's dtype."""
    if residual is not None:
        x = (x + residual) if residual_scale == 1 else (x + residual) * residual_scale
    return x if tail is None else _joined(x, tail)


def _joined(x: Tensor, tail: Tensor) -> Tensor:
    # Without this, images of two memory orders become contiguous ones.
    return torch.cat([x, tail], 1).contiguous(memory_format=image_layout(x))


def check(x: Tensor, tail: Image, residual: Image = None, residual_scale: float = 1.0) -> None:
    """Raises ValueError unless the arguments fit together."""
    check_image(x)
    check_joined(x, tail, residual)
    if tail is None and residual is None:
        raise ValueError("tail and residual are None; one of them must be given")


def unsupported(backend: str, x: Tensor, *args: Any, **kwargs: Any) -> str | None:
    """Reason why the compiled kernels cannot run this call, or None."""
    if backend == "torch":
        return None
    if backend == "native" and x.is_cuda:
        return "native has no join on CUDA"
    if x.dtype not in COMPILED_DTYPES:
        return f"{backend} computes in float32, which a {x.dtype} x does not allow"
    if not same_dense_layout(x):
        return f"{backend} needs an x that is contiguous or channels-last"
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
    tail: int = 0,
    residual: float | None = None,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = True,
    device: str = "cpu",
    seed: int = 0,
) -> Call:
    """Arguments of one call: images of `shape`, `tail` more channels (0: none).

    `residual` is the scale of the residual sum, None for none.
    """
    draw = Draw(seed, device, channels_last)
    x = draw.normal(*shape, dtype=dtype, scale=2.0)
    more = draw.normal(shape[0], tail, *shape[2:], dtype=dtype) if tail else None
    if residual is None:
        return (x, more), {}
    return (x, more, draw.normal(*shape, dtype=dtype), residual), {}


BFLOAT, HALF = {"dtype": torch.bfloat16}, {"dtype": torch.float16}
CASES: list[dict[str, Any]] = [
    {"shape": (2, 6, 5, 7), "tail": 3, "residual": 0.5**0.5},
    {"shape": (3, 5, 4, 3), "tail": 11, **BFLOAT},
    {"shape": (2, 24, 6, 5), "tail": 40, "residual": 0.7, **HALF},
    {"shape": (0, 4, 2, 2), "tail": 4, "residual": 1.0},
    {"shape": (2, 3, 7, 5), "residual": 0.5**0.5, **BFLOAT},
    {"shape": (2, 7, 5, 5), "tail": 2, "residual": 1.0, "channels_last": False, **HALF},
    {"shape": (3, 16, 9, 11), "tail": 33, "channels_last": False},
    {"shape": (1, 40, 3, 2), "tail": 1, "residual": 0.7, **BFLOAT, "channels_last": False},
    {"shape": (2, 130, 5, 4), "tail": 70, "residual": 0.5**0.5, **BFLOAT},
]
BENCH: list[dict[str, Any]] = [
    {"shape": (batch, c, w, w), "tail": tail, "residual": 0.5**0.5, **BFLOAT}
    for batch, c, tail, w in ((8, 256, 256, 32), (1, 256, 256, 16), (8, 192, 192, 64))
]
# Channels of x and of the skip tensor in the decoders, and the width of their images.
DDPMPP = [(256, 256, 8), (256, 256, 16), (256, 256, 32), (256, 128, 32)]
ADM = [(768, 768, 8), (768, 576, 16), (576, 384, 32), (384, 192, 64), (192, 192, 64)]
BENCH_GPU: list[dict[str, Any]] = [
    *({"shape": (64, c, w, w), "tail": t, "residual": 0.5**0.5, **BFLOAT} for c, t, w in DDPMPP),
    *({"shape": (64, c, w, w), "tail": t, "residual": 1.0, **BFLOAT} for c, t, w in ADM),
    *({"shape": (11, c, w, w), "tail": t, **BFLOAT} for c, t, w in (DDPMPP[2], ADM[2])),
    {"shape": (64, 256, 16, 16), "residual": 0.5**0.5, **BFLOAT},
    {"shape": (64, 256, 16, 16), "tail": 256, "residual": 0.5**0.5, **HALF},
    {"shape": (64, 256, 32, 32), "tail": 128, "residual": 0.5**0.5},
]

join = Op(
    "join",
    reference,
    torch=torch_join,
    triton=triton_join,
    native=native_join,
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
