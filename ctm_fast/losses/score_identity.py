"""The mean of all images that a noisy image may come from, estimated from a set of images.

Legend: x_t = x0 + t noise; R = {x^(1), .., x^(n)} is the reference set of x_t.

By the score identity, grad log p_t(x_t) = E[grad log p(x_t | x0) | x_t], the noise to expect at
x_t is (x_t - E[x0 | x_t]) / t. With weights w_i that are proportional to p(x_t | x^(i)),
sum_i w_i x^(i) is E[x0 | x_t, R] if x0 is itself in R and all of R come from the data: its mean
over R is then E[x0 | x_t] exactly, for every n, and its variance is never above that of x0. Without
x0 in R it is the usual self-normalised importance sampling, with a bias of order 1/n.

Xu et al. 2023 (STF), arXiv:2302.00670; Wang et al. 2024 (SCT), arXiv:2410.18958.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FLOAT64_BELOW = 0.02  # noise level under which float32 inner products cancel too much
_CHUNK_VALUES = 2**24  # values of the reference set that are worked on at a time


class Posterior(NamedTuple):
    """What a reference set says about the image behind a noisy one."""

    mean: Tensor  # (batch, ...) sum_i w_i x^(i), shape and dtype of x_t
    sample_size: Tensor  # (batch,) effective sample size 1 / sum_i w_i^2, in [1, n]


def posterior_mean(
    x_t: Tensor,
    t: Tensor,
    references: Tensor,
    own: Tensor | None = None,
    allowed: Tensor | None = None,
    float64: Tensor | None = None,
) -> Posterior:
    """Mean of the reference set under weights softmax_i(-|x_t - x^(i)|^2 / (2 t^2)).

    The weights are summed in one pass with a running maximum, so their logarithms may have any
    size: at small t one image takes all the weight, at large t all images share it. |x_t|^2 is the
    same for all i and left out. In float32 an inner product of d pixels is off by about 1e-7 d,
    which weighs 1e-7 d / t^2; rows marked in `float64` are free of that.

    Args:
        x_t: (batch, ...) noisy images.
        t: (batch,) noise levels, > 0.
        references: (n, ...) images, the same for all rows; n may be 0 if `own` is given.
        own: (batch, ...) a further reference of each row alone: the image that x_t was made of.
        allowed: (batch, n) bool, which references a row uses; None: all of them.
        float64: (batch,) bool on the CPU, rows that are computed in float64; None: all of them. All
            of them also for float64 images, and where float32 products are rounded to TF32.

    Returns:
        mean and effective sample size. A row without any reference is NaN.

    Raises:
        ValueError: for shapes that do not fit together.

    Source: Xu et al. 2023 (STF), Eq. 7; Wang et al. 2024 (SCT), Section 4.1.
    """
    _check(x_t, t, references, own, allowed)
    in_float64 = x_t.dtype == torch.float64 or float64 is None or bool(float64.all())
    if in_float64 or not _exact_products(x_t):
        return _in_dtype(torch.float64, x_t, t, references, own, allowed)
    assert float64 is not None
    if not bool(float64.any()):
        return _in_dtype(torch.float32, x_t, t, references, own, allowed)
    mean, size = torch.empty_like(x_t), t.new_empty(len(t), dtype=x_t.dtype)
    for dtype, marked in ((torch.float64, float64), (torch.float32, ~float64)):
        rows = marked.nonzero().flatten().to(x_t.device)
        pick = [None if a is None else a.index_select(0, rows) for a in (own, allowed)]
        part = _in_dtype(dtype, x_t[rows], t[rows], references, *pick)
        mean.index_copy_(0, rows, part.mean)
        size.index_copy_(0, rows, part.sample_size)
    return Posterior(mean, size)


def moved(x_t: Tensor, t: Tensor, r: Tensor, mean: Tensor) -> Tensor:
    """x_r = x_t + (r - t) (x_t - mean) / t, an Euler step towards `mean`: `mean` itself at r = 0.

    Args:
        x_t: (batch, ...) noisy images.
        t: (batch,) noise levels, > 0.
        r: (batch,) levels to go to, in [0, t].
        mean: (batch, ...) expected image.

    Source: Wang et al. 2024 (SCT), Section 4.1, for x_t = x0 + t noise.
    """
    ratio = (r / t).reshape(-1, *[1] * (x_t.ndim - 1))
    return ratio.to(x_t.dtype) * x_t + (1 - ratio).to(x_t.dtype) * mean


def _in_dtype(
    dtype: torch.dtype,
    x_t: Tensor,
    t: Tensor,
    references: Tensor,
    own: Tensor | None,
    allowed: Tensor | None,
) -> Posterior:
    """`posterior_mean` computed in one dtype."""
    rows = x_t.flatten(1).to(dtype)
    half = 0.5 / t.to(dtype)[:, None] ** 2
    # Sums of exp(log weight - largest) so far: of 1, of its square, and of the image.
    largest = torch.full_like(half, torch.finfo(dtype).min)
    total, squares, images = torch.zeros_like(half), torch.zeros_like(half), torch.zeros_like(rows)
    if own is not None:
        images = own.flatten(1).to(dtype)
        largest = half * (images * (2 * rows - images)).sum(1, keepdim=True)
        total, squares = torch.ones_like(half), torch.ones_like(half)
    size = max(1, _CHUNK_VALUES // max(1, rows.shape[1]))
    with torch.autocast(x_t.device.type, enabled=False):
        for start in range(0, len(references), size):
            chunk = references[start : start + size].flatten(1).to(x_t.device, dtype)
            logs = half * (2 * rows @ chunk.T - (chunk**2).sum(1))
            if allowed is not None:
                logs = logs.masked_fill(~allowed[:, start : start + size], -torch.inf)
            now = torch.maximum(largest, logs.amax(1, keepdim=True))
            before, weights = (largest - now).exp(), (logs - now).exp()
            total = total * before + weights.sum(1, keepdim=True)
            squares = squares * before**2 + (weights**2).sum(1, keepdim=True)
            images = images * before + weights @ chunk
            largest = now
    mean = (images / total).reshape(x_t.shape).to(x_t.dtype)
    return Posterior(mean, (total**2 / squares).squeeze(1).to(x_t.dtype))


def _exact_products(x: Tensor) -> bool:
    """Whether float32 matrix products keep float32's precision (no TF32) on x's device."""
    return x.device.type != "cuda" or torch.get_float32_matmul_precision() == "highest"


def _check(
    x_t: Tensor, t: Tensor, references: Tensor, own: Tensor | None, allowed: Tensor | None
) -> None:
    if x_t.ndim < 2 or references.shape[1:] != x_t.shape[1:]:
        raise ValueError(
            f"references have shape {tuple(references.shape)}; need (n, {x_t.shape[1:]}) as x_t"
        )
    if t.shape != (len(x_t),):
        raise ValueError(f"t has shape {tuple(t.shape)}; need ({len(x_t)},)")
    if own is not None and own.shape != x_t.shape:
        raise ValueError(f"own has shape {tuple(own.shape)}; need {tuple(x_t.shape)} as x_t")
    if allowed is not None and allowed.shape != (len(x_t), len(references)):
        raise ValueError(
            f"allowed has shape {tuple(allowed.shape)}; need ({len(x_t)}, {len(references)})"
        )
    if own is None and len(references) == 0:
        raise ValueError("no reference image: give own, or at least one reference")
