"""Heun's method, order 2, and the batched teacher solve of CTM.

Karras et al. 2022 (EDM), Algorithm 1; Kim et al. 2024 (CTM), Section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..kernels.heun import heun_correct, heun_predict
from .base import Denoise, Level, expand, slope
from .euler import Euler
from .grid_solve import GridSolve, Network, check_grid, check_steps
from .memory import laid_out_like


@dataclass(frozen=True)
class Heun:
    """Trapezoidal step; a step to level 0 is Euler's, whose slope needs no call at 0."""

    order: ClassVar[int] = 2
    nfe: ClassVar[int] = 2

    def step(
        self,
        denoiser: Denoise,
        x: Tensor,
        sigma: Level,
        sigma_to: Level,
        labels: Tensor | None = None,
    ) -> Tensor:
        """x at `sigma_to`; x (batch, ...), levels are numbers or (batch,)."""
        at_zero = (sigma_to == 0).all() if isinstance(sigma_to, Tensor) else sigma_to == 0
        if at_zero:
            return Euler().step(denoiser, x, sigma, sigma_to, labels)
        return trapezoid(denoiser, x, sigma, sigma_to, labels)


def trapezoid(
    denoiser: Denoise, x: Tensor, sigma: Level, sigma_to: Level, labels: Tensor | None = None
) -> Tensor:
    """x at `sigma_to` > 0 by the mean of the slopes at both ends, shape of x."""
    h = expand(sigma_to - sigma, x)
    d = slope(denoiser, x, sigma, labels)
    d_to = slope(denoiser, x + h * d, sigma_to, labels)
    return x + h / 2 * (d + d_to)


class HeunTable:
    """Coefficients of the fused Heun step for every interval of a grid.

    With denoised = P x + Q F, a = (1 - P) / t and b = -Q / t at the interval's ends t (index i)
    and t' (index i + 1), and h = t' - t:

        predicted = alpha x + beta F1            alpha = 1 + h a, beta = h b
        x_next    = A x + B F1 + C F2            A = 1 + h/2 (a + a' alpha),
                                                 B = h/2 (b + a' beta), C = h/2 b'

    Computed in float64 and rounded once. Row i of the last grid point is the identity.

    Args:
        precond: object with `c_in`, `c_noise` and `denoise_coefficients`, all linear in F.
        sigmas: (num_scales,) positive levels, in the order in which they are visited.
        dtype: of the solver state, float32 or float64.
        device: of the solver state.
    """

    names = ("alpha", "beta", "A", "B", "C", "c_in", "c_in_to", "c_noise", "c_noise_to")
    history = 0

    def __init__(
        self,
        precond: Any,
        sigmas: Tensor | Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        t = torch.as_tensor(sigmas, dtype=torch.float64).cpu()
        P, Q = precond.denoise_coefficients(t)
        a, b = (1 - P) / t, -Q / t
        h = t.diff(append=t[-1:])
        a_to, b_to, c_in, c_noise = _next(a), _next(b), precond.c_in(t), precond.c_noise(t)
        alpha, beta = 1 + h * a, h * b
        A, B, C = 1 + h / 2 * (a + a_to * alpha), h / 2 * (b + a_to * beta), h / 2 * b_to
        rows = [alpha, beta, A, B, C, c_in, _next(c_in), c_noise, _next(c_noise)]
        # (9, num_scales), copied without waiting for what the device does
        self.values = torch.stack(rows).to(dtype).to(device, non_blocking=True)
        self.num_scales = len(t)
        self.idle = self.num_scales - 1

    def __len__(self) -> int:
        return self.num_scales

    def at(self, index: Tensor) -> dict[str, Tensor]:
        """Coefficients of the intervals that start at `index`, (batch,) each."""
        return dict(zip(self.names, self.values.index_select(1, index), strict=True))

    def passes(self, steps: Tensor) -> Tensor:
        """A pass is a step with its two network calls."""
        return steps

    def columns(self, start: Tensor, passes: int) -> Tensor:
        """Grid index of every step, (images, passes); those after the last level are not used."""
        return (start[:, None] + torch.arange(passes)).clamp(max=self.idle)

    def scale(self, start: Tensor) -> Tensor:
        """c_in at grid index `start`, (batch,)."""
        return self.at(start)["c_in"]

    def noise_inputs(self) -> Tensor:
        """c_noise of the whole grid, (num_scales,)."""
        return self.values[self.names.index("c_noise")]

    def advance(self, network: Network, column: Tensor, state: list[Tensor]) -> list[Tensor]:
        """[x, c_in x] after the step from grid index `column`, (batch,)."""
        (x, scaled), k = state, self.at(column)
        own = scaled.dtype
        F1 = laid_out_like(network(scaled, k["c_noise"], column), x)
        scaled = heun_predict(x, F1, k["alpha"], k["beta"], k["c_in_to"], out_dtype=own)
        F2 = laid_out_like(network(scaled, k["c_noise_to"], column + 1), x)
        return list(heun_correct(x, F1, F2, k["A"], k["B"], k["C"], k["c_in_to"], out_dtype=own))


def _next(values: Tensor) -> Tensor:
    return torch.cat([values[1:], values[-1:]])


def heun_solve_reference(
    denoiser: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    start: Tensor,
    num_steps: int | Tensor,
    labels: Tensor | None = None,
) -> Tensor:
    """What `heun_solve` returns, by the plain formula and on the whole batch at every step."""
    start, steps = check_steps(len(x), check_grid(x, sigmas), start, num_steps)
    grid = torch.as_tensor(sigmas, dtype=x.dtype).to(x.device)
    most = max(steps.tolist(), default=0)
    start, steps = start.to(x.device), steps.to(x.device)
    for m in range(most):
        active = m < steps
        index = torch.where(active, start + m, start).clamp(max=len(grid) - 2)
        x_next = trapezoid(denoiser, x, grid[index], grid[index + 1], labels)
        x = torch.where(active.reshape(-1, *[1] * (x.ndim - 1)), x_next, x)
    return x


def heun_solve(
    denoiser: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    start: Tensor,
    num_steps: int | Tensor,
    labels: Tensor | None = None,
    table: HeunTable | None = None,
    slots: int | None = None,
) -> Tensor:
    """Points after `num_steps` Heun steps along the grid, shape and dtype of x; no gradient.

    A `Denoiser` is called as a raw network between two fused updates, on the images whose steps
    are not done; other callables go through `heun_solve_reference`. Finished images keep their
    bits. Every step costs two network calls. The result of 4 axes is channels-last.

    Args:
        denoiser: called as denoiser(x, sigma, labels). It is taken apart if it has `raw` and
            `precond`, so a wrapper that changes the result must not have them.
        x: (batch, ...) float32 or float64, image j at level sigmas[start[j]].
        sigmas: (num_scales,) positive levels. Like `start` and `num_steps` best on the CPU,
            whatever x's device: from elsewhere they are copied there, which waits for that device.
        start: (batch,) int64 grid indices.
        num_steps: steps of every image, or (batch,) int64; start + num_steps <= num_scales - 1.
        labels: (batch,), (batch, classes) or (1, classes), passed to the network.
        table: `HeunTable(denoiser.precond, sigmas, x.dtype, x.device)` if it is already there.
        slots: images per network batch, >= 1; None: all. No result depends on it.

    Raises:
        ValueError: for indices off the grid, real indices, or inadmissible levels.

    Source: Kim et al. 2024, Section 3.2 (Solver), with Heun's method of Karras et al. 2022.
    """
    precond = getattr(denoiser, "precond", None)
    if precond is None or not hasattr(denoiser, "raw"):
        with torch.no_grad():
            return heun_solve_reference(denoiser, x, sigmas, start, num_steps, labels)
    start, steps = check_steps(len(x), check_grid(x, sigmas), start, num_steps)
    table = table or HeunTable(precond, sigmas, x.dtype, x.device)
    return GridSolve(denoiser, table, slots=slots)(x, start, steps[None], labels)[0]
