"""Door of facebookresearch/flow_matching: an object with `ODESolver`'s `.sample`.

Flow time: t = 0 is noise, t = 1 is data. Lipman et al. 2024, arXiv:2412.06264; average velocities
of Geng et al. 2025 (MeanFlow), arXiv:2505.13447.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .hosts import refuse, sampling

KINDS = ("velocity", "average_velocity")
ADAPTIVE = {"atol": 1e-5, "rtol": 1e-5}

# Butcher tableaus: (nodes, rows, weights).
Tableau = tuple[tuple[float, ...], tuple[tuple[float, ...], ...], tuple[float, ...]]
METHODS: dict[str, Tableau] = {
    "euler": ((0,), ((),), (1,)),
    "midpoint": ((0, 1 / 2), ((), (1 / 2,)), (0, 1)),
    "heun2": ((0, 1), ((), (1,)), (1 / 2, 1 / 2)),
    "heun3": ((0, 1 / 3, 2 / 3), ((), (1 / 3,), (0, 2 / 3)), (1 / 4, 0, 3 / 4)),
    "rk4": (
        (0, 1 / 3, 2 / 3, 1),
        ((), (1 / 3,), (-1 / 3, 1), (1, -1, 1)),
        (1 / 8, 3 / 8, 3 / 8, 1 / 8),
    ),
}


@dataclass(frozen=True)
class FlowSolver:
    """Stands in for `ODESolver(velocity_model)`; also jumps with average velocities.

    The model is called as velocity_model(x=, t=, **extras), t a () tensor as in `ODESolver`. A
    model of average velocities is called as velocity_model(x=, t=, r=, **extras) and moves from t
    to r in one call.

    Raises:
        ValueError: for an unknown kind.
    """

    velocity_model: Callable[..., Tensor]
    kind: str = "velocity"  # "velocity" or "average_velocity"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r}; choose from {KINDS}")

    def sample(
        self,
        x_init: Tensor,
        step_size: float | None = None,
        method: str = "euler",
        atol: float = ADAPTIVE["atol"],
        rtol: float = ADAPTIVE["rtol"],
        time_grid: Tensor | Sequence[float] = (0.0, 1.0),
        return_intermediates: bool = False,
        enable_grad: bool = False,
        **model_extras: Any,
    ) -> Tensor:
        """x at the last time, shape and dtype of x_init.

        Args:
            x_init: (batch, ...) state at the first time; never rescaled.
            step_size: of equal steps over the whole grid, the last one shorter; None: the grid's
                own intervals.
            method: "euler", "midpoint", "heun2", "heun3" or "rk4"; "euler" only for average
                velocities, whose steps are jumps.
            atol: of adaptive methods, which are not built: must keep its default.
            rtol: as atol.
            time_grid: (points,) strictly ascending or descending times.
            return_intermediates: return x at all times of the grid, (points, batch, ...); between
                steps on the straight line.
            enable_grad: keep gradients. The model is put into eval mode either way.
            model_extras: passed on to the model.

        Raises:
            ValueError: for an unknown method, bad times or step sizes, or options that do nothing.
        """
        if method not in METHODS or (self.kind == "average_velocity" and method != "euler"):
            allowed = tuple(METHODS) if self.kind == "velocity" else ("euler",)
            raise ValueError(f"unknown method {method!r}; choose from {allowed}")
        tolerances = {"atol": atol, "rtol": rtol}
        given = {name: v for name, v in tolerances.items() if v != ADAPTIVE[name]}
        refuse(f"method {method!r}", given, ("step_size", "time_grid"))
        times = checked_times(time_grid)
        steps = step_times(times, step_size)
        state = x_init if x_init.dtype == torch.float64 else x_init.float()
        kept, sign = [state], math.copysign(1, times[-1] - times[0])
        with sampling(self.velocity_model), torch.set_grad_enabled(enable_grad):
            for t, t_next in pairwise(steps):
                after = self._step(METHODS[method], state, t, t_next, x_init.dtype, model_extras)
                while len(kept) < len(times) and sign * (t_next - times[len(kept)]) >= 0:
                    part = (times[len(kept)] - t) / (t_next - t)
                    kept.append(after if part == 1 else torch.lerp(state, after, part))
                state = after
        if return_intermediates:
            return torch.stack(kept).to(x_init.dtype)
        return state.to(x_init.dtype)

    def _step(
        self,
        tableau: Tableau,
        x: Tensor,
        t: float,
        t_next: float,
        dtype: torch.dtype,
        extras: dict[str, Any],
    ) -> Tensor:
        nodes, rows, weights = tableau
        h = t_next - t
        slopes: list[Tensor] = []
        for node, row in zip(nodes, rows, strict=True):
            here = x
            for weight, slope in zip(row, slopes, strict=True):
                here = torch.add(here, slope, alpha=h * weight) if weight else here
            slopes.append(self._velocity(here, t + node * h, t_next, dtype, extras))
        for weight, slope in zip(weights, slopes, strict=True):
            x = torch.add(x, slope, alpha=h * weight) if weight else x
        return x

    def _velocity(
        self, x: Tensor, t: float, t_next: float, dtype: torch.dtype, extras: dict[str, Any]
    ) -> Tensor:
        # A time is a float32 number in half precision hosts too: 0.999 would be 1 otherwise.
        clock = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
        times = {"t": torch.full((), t, dtype=clock, device=x.device)}
        if self.kind == "average_velocity":
            times["r"] = torch.full((), t_next, dtype=clock, device=x.device)
        return self.velocity_model(x=x.to(dtype), **times, **extras).to(x.dtype)


def checked_times(time_grid: Tensor | Sequence[float]) -> list[float]:
    """Times as Python floats.

    Raises:
        ValueError: unless there are at least two, finite and strictly ascending or descending.
    """
    times = [float(t) for t in time_grid]
    signs = {math.copysign(1, after - before) for before, after in pairwise(times)}
    equal = any(before == after for before, after in pairwise(times))
    if len(times) < 2 or not all(map(math.isfinite, times)) or len(signs) > 1 or equal:
        raise ValueError(
            f"time_grid must have at least two times, strictly ascending or descending, got {times}"
        )
    return times


def step_times(times: list[float], step_size: float | None) -> list[float]:
    """Where the steps begin and end: the grid itself, or equal steps from its first to its last.

    Raises:
        ValueError: unless step_size is positive.
    """
    if step_size is None:
        return times
    if not 0 < step_size < math.inf:
        raise ValueError(f"step_size is {step_size}; it must be positive")
    length = times[-1] - times[0]
    # A step count that misses an integer by rounding alone has no short last step.
    count = max(1, math.ceil(abs(length) / step_size - 1e-9))
    h = math.copysign(step_size, length)
    return [*(times[0] + i * h for i in range(count)), times[-1]]
