"""Dormand and Prince's method, order 5, with adaptive steps. J. Comput. Appl. Math. 6 (1980)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .base import Denoise, Level, expand, slope

State = tuple[Tensor, ...]
Field = Callable[[float, State], State]

# Nodes, stage weights, and the difference of the order 5 and order 4 results. The last stage is
# the result itself, so its slope opens the next step.
NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


class SolverError(RuntimeError):
    """An adaptive solve could not meet its tolerance."""


class Integration(NamedTuple):
    """End point of an adaptive solve and what it cost."""

    y: State  # state at the end
    nfe: int  # calls of the field
    num_steps: int  # accepted steps
    num_rejected: int  # steps that were tried again with a smaller size


def check_tolerances(rtol: float, atol: float, max_steps: int) -> None:
    """Check the options of an adaptive solve.

    Raises:
        ValueError: for inadmissible ones.
    """
    if not (rtol >= 0 and atol > 0 and max_steps > 0):
        raise ValueError(
            f"need rtol >= 0, atol > 0 and max_steps > 0, got {rtol=}, {atol=}, {max_steps=}"
        )


def dopri5_step(f: Field, t: float, y: State, h: float, k: State) -> tuple[State, State, State]:
    """(state at t + h, slope there, estimated error of the state); `k` is the slope at t."""
    slopes, y_next = [k], y
    for node, weights in zip(NODES[1:], STAGES[1:], strict=True):
        y_next = _add(y, h, slopes, weights)
        slopes.append(f(t + node * h, y_next))
    zero = tuple(torch.zeros_like(part) for part in y)
    return y_next, slopes[-1], _add(zero, h, slopes, ERROR)


def integrate(
    f: Field,
    y: State,
    start: float,
    end: float,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 1000,
) -> Integration:
    """Solution at `end` of dy/dt = f(t, y) from y at `start`, in either direction.

    The step size is shared by the batch. A step is accepted when for every tensor of the state
    and every sample the root mean square of error / (atol + rtol |y|) is at most 1.

    Args:
        f: called with t and a tuple of tensors (batch, ...); returns their slopes.
        y: tuple of tensors (batch, ...), float32 or float64.
        start: first value of t.
        end: last value of t.
        rtol: relative tolerance of one step, >= 0.
        atol: absolute tolerance of one step, > 0.
        max_steps: accepted and rejected steps together.

    Raises:
        ValueError: for inadmissible tolerances.
        SolverError: if max_steps do not reach the end, or the state is not finite.

    Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, Section II.4.
    """
    check_tolerances(rtol, atol, max_steps)
    if start == end:
        return Integration(y, 0, 0, 0)
    k, t, nfe, accepted, rejected = f(start, y), start, 2, 0, 0
    h = _first_step(f, start, end, y, k, rtol, atol)
    while t != end:
        if accepted + rejected == max_steps:
            raise SolverError(
                f"dopri5 is at {t:.6g} after {max_steps} steps and should reach {end:.6g}; raise "
                f"max_steps, or loosen rtol={rtol:g} and atol={atol:g}"
            )
        last = abs(h) >= abs(end - t)
        h = end - t if last else h
        y_next, k_next, error = dopri5_step(f, t, y, h, k)
        nfe += 6
        ratio = _ratio(error, y, y_next, rtol, atol)
        if not ratio <= 1:
            rejected += 1
            h *= max(0.2, 0.9 * ratio**-0.2) if math.isfinite(ratio) else 0.2
            if t + h == t:
                raise SolverError(f"dopri5 stopped at {t:.6g}: the slope is not finite or jumps")
            continue
        accepted += 1
        t, y, k = (end if last else t + h), y_next, k_next
        h *= min(5.0, 0.9 * ratio**-0.2) if ratio > 0 else 5.0
    return Integration(y, nfe, accepted, rejected)


@dataclass(frozen=True)
class Dopri5:
    """Adaptive solve from one level to the next; both must be above 0."""

    rtol: float = 1e-5  # relative tolerance of one internal step
    atol: float = 1e-5  # absolute tolerance of one internal step, > 0
    max_steps: int = 1000  # internal steps between two levels

    order: ClassVar[int] = 5
    nfe: ClassVar[None] = None

    def step(
        self,
        denoiser: Denoise,
        x: Tensor,
        sigma: Level,
        sigma_to: Level,
        labels: Tensor | None = None,
    ) -> Tensor:
        """x at `sigma_to`; x (batch, ...), levels are numbers or (batch,).

        Raises:
            ValueError: for a level of 0, where the slope is not defined.
            SolverError: if the tolerance cannot be met.
        """
        if bool(torch.as_tensor(sigma_to == 0).any()):
            raise ValueError(
                "dopri5 cannot step to sigma=0, where dx/dsigma is not defined; end at the "
                "network's sigma_min and denoise there"
            )
        # One parameter from 0 to 1 serves levels that differ from image to image.
        span = sigma_to - sigma

        def field(t: float, y: State) -> State:
            return (expand(span, x) * slope(denoiser, y[0], sigma + t * span, labels),)

        return integrate(field, (x,), 0.0, 1.0, self.rtol, self.atol, self.max_steps).y[0]


def _add(y: State, h: float, slopes: list[State], weights: tuple[float, ...]) -> State:
    parts = list(y)
    for slope_, weight in zip(slopes, weights, strict=True):
        if weight:
            parts = [p.add(s, alpha=h * weight) for p, s in zip(parts, slope_, strict=True)]
    return tuple(parts)


def _ratio(error: State, y: State, y_next: State, rtol: float, atol: float) -> float:
    ratios = []
    for e, a, b in zip(error, y, y_next, strict=True):
        scaled = e / (atol + rtol * torch.maximum(a.abs(), b.abs()))
        ratios.append(scaled.reshape(len(e), -1).square().mean(1).sqrt().max())
    return float(torch.stack([r.double() for r in ratios]).max())


def _first_step(
    f: Field, start: float, end: float, y: State, k: State, rtol: float, atol: float
) -> float:
    span, sign = abs(end - start), math.copysign(1.0, end - start)
    d0, d1 = _ratio(y, y, y, rtol, atol), _ratio(k, y, y, rtol, atol)
    h0 = 0.01 * d0 / d1 if min(d0, d1) > 1e-5 else 1e-6 * span
    h0 = min(h0, span)
    ahead = f(start + sign * h0, _add(y, sign * h0, [k], (1.0,)))
    change = tuple(b - a for a, b in zip(k, ahead, strict=True))
    d2 = _ratio(change, y, y, rtol, atol) / h0
    top = max(d1, d2)
    h1 = (0.01 / top) ** 0.2 if top > 1e-15 else max(1e-6 * span, 1e-3 * h0)
    h = min(100 * h0, h1, span)
    return sign * (h if math.isfinite(h) and h > 0 else 1e-6 * span)
