"""Noisy images together with what the network sees of them. Spec: Karras et al. 2022, Eq. 8."""

from typing import Any

import torch

from ._heun_native import native_add_noise
from ._pointwise import limits, no_gradient, noise_arguments, registered
from ._pointwise_triton import launch_add_noise, triton_add_noise
from .arguments import Draw, check_factors, check_network, check_state, column
from .op import Call, Op

Tensor = torch.Tensor


def reference(
    x: Tensor,
    noise: Tensor,
    level: Tensor,
    c_in: Tensor,
    *,
    out_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Images with noise added, x + level noise, and c_in times them. No gradient in fast backends.

    Args:
        x: (batch, ...) float32 or float64 images.
        noise: (batch, ...) unit noise, any floating dtype.
        level: (batch,) standard deviation of what is added, in x's dtype, >= 0.
        c_in: (batch,) input scale at the noise level arrived at, in x's dtype.
        out_dtype: dtype of the scaled result, for example the network's; x's if None.

    Returns:
        noisy: (batch, ...) in x's dtype.
        scaled: (batch, ...) c_in noisy in `out_dtype`.

    Raises:
        ValueError: shapes or dtypes do not fit together.

    Source: Karras et al. 2022 (arXiv:2206.00364), Eqs. 7 and 8, y + n and c_in (y + n); the same
    step between two jumps is in Kim et al. 2024 (CTM), Algorithm 2.
    """
    noisy = x + column(level, x) * noise.to(x.dtype)
    return noisy, (column(c_in, x) * noisy).to(out_dtype or x.dtype)


def check(
    x: Tensor,
    noise: Tensor,
    level: Tensor,
    c_in: Tensor,
    *,
    out_dtype: torch.dtype | None = None,
) -> None:
    """Raises ValueError unless the arguments fit together."""
    check_state(x)
    check_network("noise", noise, x)
    check_factors(x, level=level, c_in=c_in)
    if out_dtype is not None and not out_dtype.is_floating_point:
        raise ValueError(f"out_dtype is {out_dtype}; it must be a floating dtype")


def unsupported(
    backend: str,
    x: Tensor,
    noise: Tensor,
    level: Tensor,
    c_in: Tensor,
    *,
    out_dtype: torch.dtype | None = None,
) -> str | None:
    """Reason why the fast backends cannot run this call, or None."""
    return no_gradient(backend, x, noise, level, c_in) or limits(
        backend, (x, noise), (noise.dtype, out_dtype or x.dtype)
    )


def example(
    *,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    noise: torch.dtype | None = None,
    out_dtype: torch.dtype | None = None,
    channels_last: bool = False,
    device: str = "cpu",
    seed: int = 0,
) -> Call:
    """Arguments of one call: images of `shape` in `dtype`, noise in its own or the same dtype."""
    draw = Draw(seed, device, channels_last)
    images = draw.normal(*shape, dtype=dtype, scale=0.5)
    unit = draw.normal(*shape, dtype=noise or dtype)
    level, c_in = (draw.normal(shape[0], dtype=dtype).abs() for _ in range(2))
    return (images, unit, level, c_in), {"out_dtype": out_dtype}


BFLOAT, HALF = {"out_dtype": torch.bfloat16}, {"out_dtype": torch.float16}
CASES: list[dict[str, Any]] = [
    {"shape": (2, 3, 8, 8)},
    {"shape": (3, 3, 5, 7), "channels_last": True},
    {"shape": (3, 1, 5, 7), **BFLOAT, "channels_last": True},
    {"shape": (2, 3, 9, 9), **HALF},
    {"shape": (2, 3, 5, 5), "noise": torch.float16},
    {"shape": (1, 3, 96, 97), **BFLOAT, "noise": torch.bfloat16},
    {"shape": (2, 17), "dtype": torch.float64},
    {"shape": (2, 3, 4, 4), "dtype": torch.float64, "noise": torch.float32, **HALF},
    {"shape": (0, 3, 4, 4)},
    {"shape": (2, 0), **BFLOAT},
    {"shape": (1, 1, 1, 1)},
]
BENCH: list[dict[str, Any]] = [
    {"shape": (64, 3, 32, 32), **BFLOAT},
    {"shape": (64, 3, 64, 64), **BFLOAT},
    {"shape": (64, 3, 32, 32)},
    {"shape": (8, 3, 32, 32)},
]
BENCH_GPU: list[dict[str, Any]] = [
    {"shape": (batch, 3, side, side), "out_dtype": out_dtype, "channels_last": True}
    for batch, side in ((64, 32), (64, 64), (11, 32))
    for out_dtype in (torch.bfloat16, torch.float16, torch.float32)
]

add_noise = Op(
    "add_noise",
    reference,
    triton=triton_add_noise,
    native=native_add_noise,
    check=check,
    unsupported=unsupported,
    registered=registered("add_noise", noise_arguments),
    example=example,
    cases=CASES,
    bench=BENCH,
    bench_gpu=BENCH_GPU,
    launches=launch_add_noise,
)
