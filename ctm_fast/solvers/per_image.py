"""Solves in which every image has its own time and step size, so that no other image matters."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .dopri5 import ERROR, NODES, STAGES, SolverError, State, check_tolerances

# Called with times (n,), states (n, ...) and the numbers (n,) int64 of the images in the batch.
EachField = Callable[[Tensor, State, Tensor], State]


class EachIntegration(NamedTuple):
    """End points of the solves of a batch, and what each of them cost."""

    y: State  # states at the end
    nfe: Tensor  # (batch,) int64, calls of the field
    num_steps: Tensor  # (batch,) int64, accepted steps
    num_rejected: Tensor  # (batch,) int64, steps that were tried again with a smaller size


def integrate_each(
    f: EachField,
    y: State,
    start: float,
    end: float,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 1000,
) -> EachIntegration:
    """Solution at `end` of dy/dt = f(t, y) from y at `start`, in either direction.

    Dormand and Prince's method with a time and a step size per image. An image's step is accepted
    when for every tensor of its state the root mean square of error / (atol + rtol |y|) is at most
    1. Images that have arrived leave the batch; the result of an image is the same in any batch,
    up to how `f` rounds.

    Args:
        f: called with t (n,) float64, a tuple of tensors (n, ...) and their places (n,) int64 in
            the batch; returns the slopes.
        y: tuple of tensors (batch, ...), float32 or float64.
        start: first value of t.
        end: last value of t.
        rtol: relative tolerance of one step, >= 0.
        atol: absolute tolerance of one step, > 0.
        max_steps: accepted and rejected steps of one image together.

    Raises:
        ValueError: for inadmissible tolerances.
        SolverError: if max_steps do not reach the end, or a state is not finite.

    Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, Section II.4.
    """
    check_tolerances(rtol, atol, max_steps)
    finished = tuple(part.clone() for part in y)
    rows = torch.arange(len(y[0]), device=y[0].device)
    accepted, rejected = torch.zeros_like(rows), torch.zeros_like(rows)
    if start == end or len(rows) == 0:
        return EachIntegration(finished, accepted, accepted, rejected)
    t = torch.full(rows.shape, float(start), dtype=torch.float64, device=rows.device)
    k = f(t, y, rows)
    h = _first_steps(f, t, end, y, k, rows, rtol, atol)
    for _ in range(max_steps):
        last = h.abs() >= (end - t).abs()
        h = torch.where(last, end - t, h)
        y_next, k_next, error = _step(f, t, y, h, k, rows)
        ratio = _ratios(error, y, y_next, rtol, atol)
        good = ratio <= 1  # False where it is not finite
        accepted[rows] += good
        rejected[rows] += ~good
        if bool((~good & (t + h * _factor(ratio) == t)).any()):
            raise SolverError(f"dopri5 stopped at {float(t.min()):.6g}: the slope is not finite")
        t = torch.where(good, torch.where(last, end, t + h), t)
        y, k = _chosen(good, y_next, y), _chosen(good, k_next, k)
        h = h * _factor(ratio)
        done = good & last
        if bool(done.any()):
            for whole, part in zip(finished, y, strict=True):
                whole[rows[done]] = part[done]
            left = ~done
            rows, t, h = rows[left], t[left], h[left]
            y, k = tuple(p[left] for p in y), tuple(p[left] for p in k)
        if len(rows) == 0:
            nfe = 2 + 6 * (accepted + rejected)
            return EachIntegration(finished, nfe, accepted, rejected)
    raise SolverError(
        f"dopri5 is at {float(t.min()):.6g} after {max_steps} steps and should reach {end:.6g}; "
        f"raise max_steps, or loosen rtol={rtol:g} and atol={atol:g}"
    )


def heun_each(f: EachField, y: State, start: float, end: float, steps: int) -> EachIntegration:
    """The same by `steps` >= 1 equal steps of Heun's method; arguments as of `integrate_each`.

    Raises:
        ValueError: for a number of steps below 1.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; it must be at least 1")
    rows = torch.arange(len(y[0]), device=y[0].device)
    times = torch.linspace(start, end, steps + 1, dtype=torch.float64).tolist()
    for t, t_to in pairwise(times):
        h = torch.full(rows.shape, t_to - t, dtype=torch.float64, device=rows.device)
        here = torch.full_like(h, t)
        k = f(here, y, rows)
        k_to = f(torch.full_like(h, t_to), _added(y, h, [k], (1.0,)), rows)
        y = _added(y, h, [k, k_to], (0.5, 0.5))
    count = torch.full_like(rows, steps)
    return EachIntegration(y, 2 * count, count, torch.zeros_like(rows))


def _step(
    f: EachField, t: Tensor, y: State, h: Tensor, k: State, rows: Tensor
) -> tuple[State, State, State]:
    """(states at t + h, slopes there, estimated errors); `k` are the slopes at t."""
    slopes, y_next = [k], y
    for node, weights in zip(NODES[1:], STAGES[1:], strict=True):
        y_next = _added(y, h, slopes, weights)
        slopes.append(f(t + node * h, y_next, rows))
    zero = tuple(torch.zeros_like(part) for part in y)
    return y_next, slopes[-1], _added(zero, h, slopes, ERROR)


def _column(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def _added(y: State, h: Tensor, slopes: list[State], weights: tuple[float, ...]) -> State:
    parts = list(y)
    for slope, weight in zip(slopes, weights, strict=True):
        if weight:
            parts = [p + _column(weight * h, p) * s for p, s in zip(parts, slope, strict=True)]
    return tuple(parts)


def _chosen(first: Tensor, a: State, b: State) -> State:
    return tuple(
        torch.where(first.reshape(-1, *[1] * (p.ndim - 1)), p, q) for p, q in zip(a, b, strict=True)
    )


def _factor(ratio: Tensor) -> Tensor:
    """What the step size is multiplied with: more than 1 only after an accepted step."""
    shrunk = torch.where(ratio.isfinite(), 0.9 * ratio**-0.2, 0.2)
    return torch.where(ratio <= 1, shrunk.clamp(max=5.0), shrunk.clamp(0.2, 1.0))


def _ratios(error: State, y: State, y_next: State, rtol: float, atol: float) -> Tensor:
    """Size of the error relative to the tolerance, (n,) float64; the largest over the state."""
    ratios = []
    for e, a, b in zip(error, y, y_next, strict=True):
        scaled = e / (atol + rtol * torch.maximum(a.abs(), b.abs()))
        ratios.append(scaled.reshape(len(e), -1).double().square().mean(1).sqrt())
    return torch.stack(ratios).amax(0)


def _first_steps(
    f: EachField,
    t: Tensor,
    end: float,
    y: State,
    k: State,
    rows: Tensor,
    rtol: float,
    atol: float,
) -> Tensor:
    span, sign = (end - t).abs(), (end - t).sign()
    d0, d1 = _ratios(y, y, y, rtol, atol), _ratios(k, y, y, rtol, atol)
    h0 = torch.where(torch.minimum(d0, d1) > 1e-5, 0.01 * d0 / d1, 1e-6 * span).minimum(span)
    ahead = f(t + sign * h0, _added(y, sign * h0, [k], (1.0,)), rows)
    change = tuple(b - a for a, b in zip(k, ahead, strict=True))
    top = torch.maximum(d1, _ratios(change, y, y, rtol, atol) / h0)
    h1 = torch.where(top > 1e-15, (0.01 / top) ** 0.2, torch.maximum(1e-6 * span, 1e-3 * h0))
    h = torch.minimum(torch.minimum(100 * h0, h1), span)
    return sign * torch.where(h.isfinite() & (h > 0), h, 1e-6 * span)
