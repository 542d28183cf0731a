"""Embedding of a noise level: sines and cosines, two layers, and what is added before and after."""

import math
from typing import Any

import torch
import torch.nn.functional as F

from ._time_embedding_op import launches, registered, triton_time_embedding
from .arguments import Draw
from .op import Call, Op

Tensor = torch.Tensor
Rows = torch.Tensor | None
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def positional_frequencies(count: int, endpoint: bool) -> list[float]:
    """`count` frequencies from 1 down to about 1e-4, evenly spaced in their logarithm.

    Args:
        count: at least 1, and at least 2 with `endpoint`.
        endpoint: True if the last one is exactly 1e-4, False if that would be the next.

    Source: Vaswani et al. 2017, Section 3.5; the endpoint as in Song et al. 2021 and Ho et al.
    2020 (True) and in Dhariwal and Nichol 2021 (False).
    """
    step = math.log(1e-4) / (count - int(endpoint))
    return [math.exp(step * k) for k in range(count)]


def reference(
    c_noise: Tensor,
    frequencies: Tensor,
    weight0: Tensor,
    bias0: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    sin_first: bool = False,
    before: Rows = None,
    after: Rows = None,
) -> Tensor:
    """Embedding of a noise level, silu(layer1(silu(layer0(waves + before))) + after).

    The waves are cosines and sines of c_noise times the frequencies. They and `before` are added in
    float32 (float64 if c_noise or the weights are) and rounded once to the weights' dtype. Under
    autocast the layers are in its dtype, like any linear layer.

    Args:
        c_noise: (batch or 1,) noise levels, float32 or float64.
        frequencies: (K / 2,) in radians per unit of c_noise, float32 or float64.
        weight0, bias0: (E, K) and (E,), the first layer.
        weight1, bias1: (E, E) and (E,), the second layer, in the same dtype.
        sin_first: waves are [sin, cos] instead of [cos, sin].
        before: (batch or 1, K) of any floating dtype, added to the waves, or None.
        after: (batch or 1, E) of any floating dtype, added before the last SiLU, or None.

    Returns:
        emb: (batch or 1, E) in the dtype of the layers.

    Raises:
        ValueError: shapes or dtypes do not fit together.

    Source: Song et al. 2021 (arXiv:2011.13456), Appendix H; Dhariwal and Nichol 2021
    (arXiv:2105.05233), Section 3; labels before and after as in Karras et al. 2022, Appendix F.
    """
    wide = torch.promote_types(weight0.dtype, torch.promote_types(c_noise.dtype, torch.float32))
    angles = c_noise.to(wide)[:, None] * frequencies.to(wide)
    waves = [angles.sin(), angles.cos()] if sin_first else [angles.cos(), angles.sin()]
    rows = torch.cat(waves, dim=1)
    if before is not None:
        rows = rows + before
    h = F.silu(F.linear(rows.to(weight0.dtype), weight0, bias0))
    h = F.linear(h, weight1, bias1)
    return F.silu(h) if after is None else F.silu(h + after).to(h.dtype)


def check(
    c_noise: Tensor,
    frequencies: Tensor,
    weight0: Tensor,
    bias0: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    sin_first: bool = False,
    before: Rows = None,
    after: Rows = None,
) -> None:
    """Raises ValueError unless the arguments fit together."""
    if c_noise.ndim != 1 or c_noise.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"c_noise is {c_noise.dtype} of shape {tuple(c_noise.shape)}; "
            "it must be (batch or 1,) float32 or float64"
        )
    if weight0.ndim != 2 or weight0.shape[1] % 2 or not weight0.is_floating_point():
        raise ValueError(
            f"weight0 is {weight0.dtype} of shape {tuple(weight0.shape)}; "
            "it must be (E, K) with an even K, and floating"
        )
    E, K = weight0.shape
    if frequencies.shape != (K // 2,) or not frequencies.is_floating_point():
        raise ValueError(
            f"frequencies are {frequencies.dtype} of shape {tuple(frequencies.shape)}; "
            f"they must be floating of shape ({K // 2},), half the width of weight0"
        )
    for name, value, shape in (
        ("bias0", bias0, (E,)),
        ("weight1", weight1, (E, E)),
        ("bias1", bias1, (E,)),
    ):
        if value.shape != shape or value.dtype != weight0.dtype:
            raise ValueError(
                f"{name} is {value.dtype} of shape {tuple(value.shape)}; "
                f"it must be {weight0.dtype} of shape {shape}"
            )
    batch = len(c_noise)
    for name, rows, width in (("before", before, K), ("after", after, E)):
        if rows is None:
            continue
        batch = batch if batch != 1 else rows.shape[0]
        if rows.shape not in ((batch, width), (1, width)) or not rows.is_floating_point():
            raise ValueError(
                f"{name} is {rows.dtype} of shape {tuple(rows.shape)}; "
                f"it must be floating of shape ({batch} or 1, {width})"
            )


def unsupported(
    backend: str, c_noise: Tensor, frequencies: Tensor, weight0: Tensor, *args: Any, **kwargs: Any
) -> str | None:
    """Reason why the Triton kernels cannot run this call, or None."""
    if torch.float64 in (c_noise.dtype, frequencies.dtype):
        return "triton computes waves in float32, which a float64 noise level does not allow"
    if weight0.dtype not in TRITON_DTYPES:
        return f"triton has layers in float32, bfloat16 and float16, not {weight0.dtype}"
    return None


def example(
    *,
    batch: int = 3,
    levels: int | None = None,
    K: int = 16,
    E: int = 32,
    dtype: torch.dtype = torch.float32,
    largest: float = 10.0,
    sin_first: bool = False,
    before: int | None = None,
    after: int | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> Call:
    """Arguments of one call; `levels`, `before` and `after` have that many rows, 1 or `batch`."""
    draw = Draw(seed, device)
    levels = batch if levels is None else levels
    c_noise = draw.normal(levels, dtype=torch.float32, scale=largest / 3)
    frequencies = torch.tensor(positional_frequencies(K // 2, K > 2), device=device)
    weight0 = draw.normal(E, K, dtype=dtype, scale=K**-0.5)
    weight1 = draw.normal(E, E, dtype=dtype, scale=2 * E**-0.5)
    bias0, bias1 = (draw.normal(E, dtype=dtype, scale=0.3) for _ in range(2))
    rows = [
        None if n is None else draw.normal(n, width, dtype=dtype)
        for n, width in ((before, K), (after, E))
    ]
    args = (c_noise, frequencies, weight0, bias0, weight1, bias1, sin_first, *rows)
    return args, {}


BFLOAT, HALF = {"dtype": torch.bfloat16}, {"dtype": torch.float16}
DDPMPP, NCSNPP, ADM = {"K": 128, "E": 512}, {"K": 256, "E": 512}, {"K": 192, "E": 768}
CASES: list[dict[str, Any]] = [
    {},
    {"batch": 5, "levels": 1, "sin_first": True, "before": 5, "after": 1},
    {"batch": 5, "before": 1, "after": 5, "K": 10, "E": 21, **HALF},
    {"batch": 0, "after": 1},
    {"batch": 1, "K": 2, "E": 1},
    {"batch": 17, "K": 38, "E": 70, "sin_first": True, "after": 17, **HALF},
    {"batch": 3, "largest": 2500.0, "before": 3, "after": 3},
    {"batch": 7, "levels": 1, "after": 7, **BFLOAT},
    {"batch": 66, "sin_first": True, "before": 1, "E": 48},
]
BENCH: list[dict[str, Any]] = [
    {"batch": batch, **size, **dtype}
    for size in ({"K": 32, "E": 128}, DDPMPP)
    for batch in (8, 128)
    for dtype in ({}, BFLOAT)
]
BENCH_GPU: list[dict[str, Any]] = [
    {"batch": batch, **size, **dtype}
    for size in (
        {**DDPMPP, "sin_first": True},
        {**NCSNPP, "sin_first": True},
        {**ADM, "largest": 1500.0},
    )
    for batch, dtype in ((1, BFLOAT), (11, BFLOAT), (64, BFLOAT), (512, BFLOAT), (64, {}))
] + [{**ADM, "batch": 64, "after": 64, **BFLOAT}, {**DDPMPP, "batch": 64, "before": 64, **BFLOAT}]

time_embedding = Op(
    "time_embedding",
    reference,
    triton=triton_time_embedding,
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
