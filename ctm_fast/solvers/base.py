"""What an ODE solver is, and the one loop of all of them.

The probability-flow ODE in units of sigma is dx/dsigma = (x - denoised) / sigma.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from ..registry import Registry

Level = float | Tensor
Callback = Callable[[dict[str, Any]], None]
Perturb = Callable[[int, Tensor, float], tuple[Tensor, float]]


class Denoise(Protocol):
    """Anything called as denoiser(x, sigma, labels) that returns E[image | x]."""

    def __call__(self, x: Tensor, sigma: Level, labels: Tensor | None = None, /) -> Tensor:
        """Denoised images, shape and dtype of x."""
        ...


class Solver(Protocol):
    """One step along the probability-flow ODE."""

    @property
    def order(self) -> int:
        """Order of the global error in the step size."""
        ...

    @property
    def nfe(self) -> int | None:
        """Network calls of a step to a level above 0; None where it depends on a tolerance."""
        ...

    def step(
        self, denoiser: Denoise, x: Tensor, sigma: Level, sigma_to: Level, labels: Tensor | None
    ) -> Tensor:
        """x at `sigma_to`; x (batch, ...), levels are numbers or (batch,)."""
        ...


SOLVERS = Registry(
    "solver",
    {
        "euler": "ctm_fast.solvers.euler:Euler",
        "heun": "ctm_fast.solvers.heun:Heun",
        "dopri5": "ctm_fast.solvers.dopri5:Dopri5",
    },
)


def expand(level: Level, x: Tensor) -> Level:
    """Noise level ready for arithmetic with x: (batch, 1, ..., 1) in x's dtype, or a number."""
    if not isinstance(level, Tensor):
        return level
    return level.to(device=x.device, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def slope(denoiser: Denoise, x: Tensor, sigma: Level, labels: Tensor | None = None) -> Tensor:
    """dx/dsigma of the probability-flow ODE at (x, sigma), shape of x. Source: EDM, Eq. 3."""
    return (x - denoiser(x, sigma, labels)) / expand(sigma, x)


def solve(
    denoiser: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    solver: Solver | None = None,
    labels: Tensor | None = None,
    callback: Callback | None = None,
    perturb: Perturb | None = None,
) -> Tensor:
    """x at the last noise level, shape and dtype of x.

    Args:
        denoiser: called as denoiser(x, sigma, labels).
        x: (batch, ...) float32 or float64, the state at the first level.
        sigmas: (steps + 1,) levels shared by all images or (steps + 1, batch); positive, the last
            one may be 0. Keep them on the CPU: their values are looked at before the first step.
        solver: `Heun()` if not given.
        labels: passed to the denoiser.
        callback: called after each step with i, x, sigma, denoised (the first network call of the
            step) and sigma_next.
        perturb: called as perturb(i, x, sigma) -> (x, sigma) before each step; see `Churn`.

    Raises:
        ValueError: for a state in half precision or inadmissible levels.
    """
    if solver is None:
        solver = SOLVERS["heun"]()
    levels = check_levels(x, sigmas)
    if perturb is not None and isinstance(levels[0], Tensor):
        raise ValueError("churn needs one noise level per step for all images, sigmas (steps + 1,)")
    first = _FirstCall(denoiser)
    for i, (sigma, sigma_to) in enumerate(pairwise(levels)):
        if perturb is not None:
            x, sigma = perturb(i, x, float(sigma))
        first.seen = None
        x = solver.step(first if callback else denoiser, x, sigma, sigma_to, labels)
        if callback is not None and first.seen is not None:
            callback({"i": i, "sigma_next": sigma_to, **first.seen})
    return x


def check_levels(x: Tensor, sigmas: Tensor | Sequence[float]) -> Sequence[Level]:
    """One noise level per grid point: numbers, or (batch,) tensors on x's device.

    Raises:
        ValueError: for a state in half precision or inadmissible levels.
    """
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"solver state must be float32 or float64, got {x.dtype}")
    grid = torch.as_tensor(sigmas, dtype=torch.float64)
    if grid.ndim not in (1, 2) or len(grid) < 2 or (grid.ndim == 2 and grid.shape[1] != len(x)):
        raise ValueError(
            f"sigmas must be (steps + 1,) or (steps + 1, {len(x)}) with steps >= 1, "
            f"got shape {tuple(grid.shape)}"
        )
    if not (bool((grid[:-1] > 0).all()) and bool((grid[-1] >= 0).all())):
        raise ValueError(f"sigmas must be positive, except for a last 0, got {grid.tolist()}")
    if not bool(grid.isfinite().all()):
        raise ValueError(f"sigmas must be finite, got {grid.tolist()}")
    if grid.ndim == 2 and len(grid[-1].eq(0).unique()) > 1:
        raise ValueError(
            f"the last level must be 0 for all images or none, got {grid[-1].tolist()}"
        )
    if grid.ndim == 1:
        return [float(level) for level in grid]
    return grid.to(x.device).unbind()


class _FirstCall:
    """Denoiser that remembers the first call of a step for the callback."""

    def __init__(self, denoiser: Denoise) -> None:
        self.denoiser = denoiser
        self.seen: dict[str, Any] | None = None

    def __call__(self, x: Tensor, sigma: Level, labels: Tensor | None = None, /) -> Tensor:
        denoised = self.denoiser(x, sigma, labels)
        if self.seen is None:
            self.seen = {"x": x, "sigma": sigma, "denoised": denoised}
        return denoised
