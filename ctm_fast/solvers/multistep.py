"""A two-step method, order 2, with one network call per step.

The probability-flow ODE is linear in x apart from the denoised image D, so between two levels it
is solved exactly for a D that is linear in sigma, through this step's and the last one's.
Exponential Adams-Bashforth, as in Zhang and Chen 2022 (DEIS) and Lu et al. 2022 (DPM-Solver++),
which extrapolate other quantities. On a mixture of Gaussians this one has the smallest mean error
of the three on 18 levels, the smallest median on any number, and like DPM-Solver++ about the mean
error of Heun's method for half of its calls. All of them err most on the way between two modes.

Legend: t, t' are a step's ends, r the level before t, D and E the denoised images at t and r.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..kernels.heun import heun_correct
from ..kernels.jump import jump
from .grid_solve import Network
from .memory import laid_out_like


class MultistepTable:
    """Coefficients of the passes of the two-step method on a grid.

    All three kinds of pass are x_new = A x + B D + C E, with D = P x + Q F:

        predict (Euler's step, the first pass)    A = t'/t, B = 1 - t'/t, C = 0
        correct (at t', the second pass)          A = 1, B = (t - t') / 2t', C = -B; E is kept
        extrapolate (all others)                  A = t'/t, B = 1 - t'/t + w, C = -w,
                                                  w = (t - t' + t' log(t'/t)) / (r - t)

    The first two are a step of Heun's method. Computed in float64 and rounded once.

    Args:
        precond: object with `c_in`, `c_noise` and `denoise_coefficients`.
        sigmas: (num_scales,) positive levels, in the order in which they are visited.
        dtype: of the solver state, float32 or float64.
        device: of the solver state.
    """

    names = ("P", "Q", "A", "B", "C", "correct", "c_in", "c_in_to", "c_noise")
    history = 1

    def __init__(
        self,
        precond: Any,
        sigmas: Tensor | Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        t = torch.as_tensor(sigmas, dtype=torch.float64).cpu()
        to, before = torch.cat([t[1:], t[-1:]]), torch.cat([t[:1], t[:-1]])
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        P, Q = precond.denoise_coefficients(t)
        c_in, c_noise, keep = precond.c_in(t), precond.c_noise(t), to / t
        half = (before - t) / (2 * t)
        # The first level has none before it; its column is never used.
        gap = (before - t).where(before != t, one)
        w = (t - to + to * keep.log()) / gap
        kinds = [
            (keep, 1 - keep, zero, zero, precond.c_in(to)),
            (one, half, -half, one, c_in),
            (keep, 1 - keep + w, -w, zero, precond.c_in(to)),
        ]
        rows = [
            torch.stack([P, Q, A, B, C, correct, c_in, c_in_to, c_noise])
            for A, B, C, correct, c_in_to in kinds
        ]
        self.values = torch.cat(rows, 1).to(device=device, dtype=dtype)  # (9, 3 num_scales)
        self.num_scales = len(t)
        self.idle = self.num_scales - 1

    def at(self, column: Tensor) -> dict[str, Tensor]:
        """Coefficients of the passes `column`, (batch,) each."""
        return dict(zip(self.names, self.values.index_select(1, column), strict=True))

    def passes(self, steps: Tensor) -> Tensor:
        """A pass is a network call; the first step has two."""
        return steps + (steps > 0)

    def columns(self, start: Tensor, passes: int) -> Tensor:
        """kind * num_scales + grid index of every pass, (images, passes)."""
        each = torch.arange(passes)
        level = start[:, None] + torch.where(each < 2, each, each - 1)
        return each.clamp(max=2) * self.num_scales + level.clamp(max=self.idle)

    def scale(self, start: Tensor) -> Tensor:
        """c_in at grid index `start`, (batch,)."""
        return self.at(start)["c_in"]

    def noise_inputs(self) -> Tensor:
        """c_noise of the whole grid, (num_scales,)."""
        return self.values[self.names.index("c_noise"), : self.num_scales]

    def advance(self, network: Network, column: Tensor, state: list[Tensor]) -> list[Tensor]:
        """[x, c_in x, E of the next pass] after the passes `column`, (batch,)."""
        (x, scaled, E), k = state, self.at(column)
        F = laid_out_like(network(scaled, k["c_noise"], column % self.num_scales), x)
        D = jump(x, F, k["P"], k["Q"])
        x, scaled = heun_correct(
            x, D, E, k["A"], k["B"], k["C"], k["c_in_to"], out_dtype=scaled.dtype
        )
        corrects = k["correct"].reshape(-1, *[1] * (x.ndim - 1)) > 0
        return [x, scaled, torch.where(corrects, E, D)]
