"""Consistency models (CM). Song et al. 2023, arXiv:2303.01469.

The five choices: levels t, r are neighbours on a Karras grid of N levels; x_r comes from x_t by the
teacher (distillation) or has the same noise (training); the target is an average of the student,
or the student; mean pixel distances or LPIPS; uniform weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..curricula import COUNTS, AnyScales, FixedScales
from ..denoiser import Denoiser
from ..registry import choice
from ..sigmas import karras_sigmas
from ..solvers import Euler, heun_solve
from .consistency import GridConsistency
from .distances import L2, AnyDistance
from .objective import Batch, Models
from .trajectories import solve_with_teacher
from .weightings import weighting


def heun(
    models: Models, x: Tensor, sigmas: Tensor, start: Tensor, n: int, labels: Tensor | None
) -> Tensor:
    """x after n Heun steps of the teacher from grid index `start`, shape of x."""
    return heun_solve(_teacher(models), x, sigmas, start, n, labels)


def euler(
    models: Models, x: Tensor, sigmas: Tensor, start: Tensor, n: int, labels: Tensor | None
) -> Tensor:
    """x after n Euler (DDIM) steps of the teacher from grid index `start`, shape of x."""
    levels, index = sigmas.to(x), start.to(x.device)
    for k in range(n):
        at, to = levels[index + k], levels[index + k + 1]
        x = Euler().step(_teacher(models), x, at, to, labels)
    return x


TEACHER_SOLVERS: dict[str, Callable[..., Tensor]] = {"euler": euler, "heun": heun}


@dataclass(frozen=True)
class CM(GridConsistency):
    """Consistency distillation (CD), and consistency training (CT) where `teacher_solver` is None.

    Defaults are those of the published CIFAR-10 distillation, except the distance: LPIPS needs
    external weights. The published CIFAR-10 training is
    `CM(scales=SquareRootScales(2, 150), teacher_solver=None, decay=0.9)`; ImageNet-64 distils with
    `FixedScales(40)` and decay 0.95.

    Raises:
        ValueError: for an unknown choice or numbers out of range.

    Source: Song et al. 2023, Algorithms 2 and 3, openai/consistency_models and
    openai/consistency_models_cifar10.
    """

    distance: AnyDistance = choice("ctm_fast.losses.distances:DISTANCES", L2)
    scales: AnyScales = choice("ctm_fast.curricula:SCALES", FixedScales)  # number of levels N
    teacher_solver: str | None = "heun"  # heun | euler: distil; None: consistency training
    teacher_steps: int = 1  # steps of the solver from t to r, >= 1; 1 in all published runs
    decay: float = 0.0  # mu0 of the target average, in [0, 1); 0: the target is the student
    decay_count: str = "intervals"  # of a growing N, mu = mu0^(s0 / N'): intervals N - 1 | levels N
    weighting: str = "uniform"  # weight at t, see `losses.weightings`

    def __post_init__(self) -> None:
        _check("teacher_solver", self.teacher_solver, [None, *sorted(TEACHER_SOLVERS)])
        _check("decay_count", self.decay_count, COUNTS)
        if self.teacher_steps < 1:
            raise ValueError(f"teacher_steps must be at least 1, got {self.teacher_steps}")
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {self.decay}")
        weighting(self.weighting)
        super().__post_init__()

    @property
    def needs(self) -> frozenset[str]:
        """The teacher to distil; the average unless its decay is 0."""
        teacher = set() if self.teacher_solver is None else {"teacher"}
        return frozenset(teacher | ({"target"} if self.decay > 0 else set()))

    def target_decay(self, progress: float) -> float | None:
        """Decay mu of the target average at this step; None where there is no average."""
        if self.decay == 0:
            return None
        return self.scales.target_decay(progress, self.decay, self.decay_count)

    def grid(self, progress: float, refined: int = 1) -> Tensor:
        """Noise levels, decreasing, (N,) float64; `refined` times as many intervals if given."""
        count = (self.scales.num_scales(progress) - 1) * refined + 1
        return karras_sigmas(count, self.sigma_min, self.sigma_max, self.rho)

    def levels(
        self, batch_size: int, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, Tensor]:
        """Both ends of uniformly drawn intervals of the grid; see `Consistency.levels`."""
        where = generator.device
        sigmas = self.grid(progress).to(where)
        last = len(sigmas) - 1
        index = torch.randint(last, (batch_size,), generator=generator, device=where)
        return sigmas[index], sigmas[index + 1]

    def draw(
        self,
        batch_size: int,
        shape: tuple[int, ...],
        generator: torch.Generator,
        progress: float = 0.0,
    ) -> dict[str, Any]:
        """As `Consistency.draw`, and for the teacher the grid index of t."""
        draw = super().draw(batch_size, shape, generator, progress)
        if self.teacher_solver is not None:
            rising = -self.grid(progress).to(generator.device)
            draw["t_index"] = torch.searchsorted(rising, -draw["t"])
        return draw

    def point(self, batch: Batch, models: Models, progress: float) -> Tensor:
        """x_r by the teacher from x_t, or with the same noise; see `Consistency.point`.

        Raises:
            ValueError: if a teacher is needed and there is none.
        """
        if self.teacher_solver is None:
            return super().point(batch, models, progress)
        # What is known on the CPU is told from there: a solve then waits for no device.
        start = batch.known("t_index")
        start = batch.draw["t_index"] if start is None else start
        n, sigmas = self.teacher_steps, self.grid(progress, self.teacher_steps)
        args = (models, batch.draw["x_t"], sigmas, start * n, n, batch.labels)
        if self.teacher_solver == "heun" and isinstance(self.scales, FixedScales):
            _teacher(models)
            return solve_with_teacher(*args)  # keeps tables and graphs, which are the grid's
        return TEACHER_SOLVERS[self.teacher_solver](*args)

    def target(
        self, x_r: Tensor, r: Tensor, batch: Batch, models: Models, progress: float
    ) -> Tensor:
        """f(x_r, r) by the average, or by the student; see `Consistency.target`.

        Raises:
            ValueError: if an average is needed and there is none.
        """
        if self.decay == 0:
            return super().target(x_r, r, batch, models, progress)
        if models.target is None:
            raise ValueError(
                f"CM with decay={self.decay} needs the averaged target network; none was given"
            )
        image: Tensor = models.target(x_r, r, batch.labels)
        return image

    def weight(self, t: Tensor, r: Tensor, models: Models) -> Tensor:
        """Weight of each image, shape and dtype of t."""
        return weighting(self.weighting)(t, r, models.student.sigma_data)


def _teacher(models: Models) -> Denoiser:
    if models.teacher is None:
        raise ValueError(
            "consistency distillation needs a teacher; give one, or train without one by "
            "teacher_solver=None"
        )
    return models.teacher


def _check(name: str, value: str | None, allowed: Any) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; choose from {list(allowed)}")
