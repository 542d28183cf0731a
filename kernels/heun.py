"""One Heun step on the probability-flow ODE as two updates, between two network calls.

With F1, F2 the raw network outputs at the two ends of the step (Source: Karras et al. 2022,
Algorithm 1, with the preconditioning multiplied out):

    x1     = alpha x + beta F1              predictor, only ever needed as c_in x1
    x_next = A x + B F1 + C F2              corrector
"""

from functools import partial
from typing import Any

import torch

from ._heun_native import native_correct, native_predict
from ._pointwise import (
    Active,
    correct_arguments,
    limits,
    no_gradient,
    predict_arguments,
    registered,
)
from ._pointwise_triton import launch_correct, launch_predict, triton_correct, triton_predict
from .arguments import (
    Draw,
    check_active,
    check_factors,
    check_network,
    check_state,
    column,
)
from .op import Call, Op

Tensor = torch.Tensor


def reference_predict(
    x: Tensor,
    F1: Tensor,
    alpha: Tensor,
    beta: Tensor,
    c_in: Tensor,
    active: Active = None,
    *,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Network input of the second stage, c_in (alpha x + beta F1). No gradient in fast backends.

    Args:
        x: (batch, ...) float32 or float64 state.
        F1: (batch, ...) raw network output at x.
        alpha, beta: (batch,) factors in x's dtype.
        c_in: (batch,) input scale at the end of the step, in x's dtype.
        active: (batch,) bool. Samples that are off are not moved: c_in x.
        out_dtype: dtype of the result; F1's if None.

    Returns:
        scaled: (batch, ...) in `out_dtype`.

    Raises:
        ValueError: shapes or dtypes do not fit together.
    """
    moved = column(alpha, x) * x + column(beta, x) * F1.to(x.dtype)
    if active is not None:
        moved = torch.where(column(active, x), moved, x)
    return (column(c_in, x) * moved).to(out_dtype or F1.dtype)


def reference_correct(
    x: Tensor,
    F1: Tensor,
    F2: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    c_in: Tensor,
    active: Active = None,
    *,
    out_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """State after the step, A x + B F1 + C F2, and c_in times it. No gradient in fast backends.

    Args:
        x: (batch, ...) float32 or float64 state.
        F1: (batch, ...) raw network output at x.
        F2: (batch, ...) raw network output at the predicted point, in F1's dtype.
        A, B, C: (batch,) factors in x's dtype.
        c_in: (batch,) input scale of the next call, in x's dtype.
        active: (batch,) bool. Samples that are off keep x bit for bit, whatever F1 and F2 hold.
        out_dtype: dtype of the scaled result; F1's if None.

    Returns:
        x_next: (batch, ...) in x's dtype.
        scaled: (batch, ...) c_in x_next in `out_dtype`.

    Raises:
        ValueError: shapes or dtypes do not fit together.
    """
    x_next = column(A, x) * x + column(B, x) * F1.to(x.dtype) + column(C, x) * F2.to(x.dtype)
    if active is not None:
        x_next = torch.where(column(active, x), x_next, x)
    return x_next, (column(c_in, x) * x_next).to(out_dtype or F1.dtype)


def check_predict(
    x: Tensor,
    F1: Tensor,
    alpha: Tensor,
    beta: Tensor,
    c_in: Tensor,
    active: Active = None,
    *,
    out_dtype: torch.dtype | None = None,
) -> None:
    """Raises ValueError unless the arguments fit together."""
    check_state(x)
    check_network("F1", F1, x)
    check_factors(x, alpha=alpha, beta=beta, c_in=c_in)
    check_active(x, active)
    if out_dtype is not None and not out_dtype.is_floating_point:
        raise ValueError(f"out_dtype is {out_dtype}; it must be a floating dtype")


def check_correct(
    x: Tensor,
    F1: Tensor,
    F2: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    c_in: Tensor,
    active: Active = None,
    *,
    out_dtype: torch.dtype | None = None,
) -> None:
    """Raises ValueError unless the arguments fit together."""
    check_predict(x, F1, A, B, c_in, active, out_dtype=out_dtype)
    check_network("F2", F2, x)
    check_factors(x, C=C)
    if F2.dtype != F1.dtype:
        raise ValueError(f"F2 is {F2.dtype}; it must be {F1.dtype}, like F1")


def unsupported(backend: str, x: Tensor, F1: Tensor, *rest: Any, **kwargs: Any) -> str | None:
    """Reason why the fast backends cannot run this call, or None."""
    images = [x, F1, *(t for t in rest if isinstance(t, Tensor) and t.shape == x.shape)]
    dtypes = (F1.dtype, kwargs.get("out_dtype") or F1.dtype)
    return no_gradient(backend, x, F1, *rest) or limits(backend, images, dtypes)


def _example(
    correct: bool,
    *,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    network: torch.dtype = torch.float32,
    out_dtype: torch.dtype | None = None,
    masked: bool = False,
    channels_last: bool = False,
    device: str = "cpu",
    seed: int = 0,
) -> Call:
    draw = Draw(seed, device, channels_last)
    outputs, factors = (2, 4) if correct else (1, 3)
    x = draw.normal(*shape, dtype=dtype, scale=4.0)
    F = [draw.normal(*shape, dtype=network) for _ in range(outputs)]
    coefficients = [draw.normal(shape[0], dtype=dtype) for _ in range(factors)]
    active = [draw.mask(shape[0])] if masked else []
    return (x, *F, *coefficients, *active), {"out_dtype": out_dtype}


HALF = {"network": torch.bfloat16, "channels_last": True}
WIDE = {"dtype": torch.float64}
CASES: list[dict[str, Any]] = [
    {"shape": (2, 3, 8, 8)},
    {"shape": (3, 3, 5, 7), "masked": True, "channels_last": True},
    {"shape": (3, 1, 5, 7), "masked": True, **HALF},
    {"shape": (2, 3, 9, 9), "network": torch.float16, "masked": True},
    {"shape": (2, 3, 5, 5), "out_dtype": torch.bfloat16},
    {"shape": (2, 3, 32, 33), "network": torch.float16, "out_dtype": torch.float32},
    {"shape": (1, 3, 96, 96), **HALF},
    {"shape": (2, 17), **WIDE, "network": torch.float64, "masked": True},
    {"shape": (2, 3, 4, 4), **WIDE},
    {"shape": (2, 3, 5, 4), **WIDE, "network": torch.bfloat16, "out_dtype": torch.float16},
    {"shape": (0, 3, 4, 4), "masked": True},
    {"shape": (2, 0)},
    {"shape": (1, 1, 1, 1), **HALF},
]
BENCH: list[dict[str, Any]] = [
    {"shape": (64, 3, 32, 32), **HALF},
    {"shape": (64, 3, 64, 64), **HALF},
    {"shape": (8, 3, 32, 32)},
]
BENCH_GPU: list[dict[str, Any]] = [
    {"shape": (batch, 3, side, side), "network": network, "channels_last": True}
    for batch, side in ((64, 32), (64, 64), (11, 32))
    for network in (torch.bfloat16, torch.float16, torch.float32)
]

heun_predict = Op(
    "heun_predict",
    reference_predict,
    native=native_predict,
    triton=triton_predict,
    check=check_predict,
    unsupported=unsupported,
    registered=registered("heun_predict", predict_arguments),
    example=partial(_example, False),
    cases=CASES,
    bench=BENCH,
    bench_gpu=BENCH_GPU,
    launches=launch_predict,
)
heun_correct = Op(
    "heun_correct",
    reference_correct,
    native=native_correct,
    triton=triton_correct,
    check=check_correct,
    unsupported=unsupported,
    registered=registered("heun_correct", correct_arguments),
    example=partial(_example, True),
    cases=CASES,
    bench=BENCH,
    bench_gpu=BENCH_GPU,
    launches=launch_correct,
)
