"""Progressive distillation (PD): one step of the student for two of its teacher.

Salimans & Ho 2022, arXiv:2202.00512; Meng et al. 2023, arXiv:2210.03142.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..registry import choice
from ..sigmas import karras_sigmas
from ..solvers import Euler
from .consistency import GridConsistency
from .distances import L2, AnyDistance
from .objective import Batch, Models
from .weightings import weighting


@dataclass(frozen=True)
class PD(GridConsistency):
    """Teaches a denoiser to reach in `steps` Euler (DDIM) steps what its teacher reaches in twice.

    From x_t the teacher makes two steps t -> t' -> r along a Karras grid of 2 steps + 1 levels. The
    student's denoised image has to be the one from which a single step lands on that x_r:

        (t x_r - r x_t) / (t - r)

    The trained student is then the teacher of a run with half as many steps, and what it is
    sampled with is `karras_sigmas(steps + 1)` and Euler's method. The grid ends at sigma_min, as in
    openai/consistency_models (`progdist_losses`), not at 0.

    Raises:
        ValueError: for numbers out of range.

    Source: Salimans & Ho 2022, Algorithm 2; Meng et al. 2023, Section 3.2, in units of sigma.
    """

    student_kind: ClassVar[str] = "denoiser"

    distance: AnyDistance = choice("ctm_fast.losses.distances:DISTANCES", L2)
    steps: int = 16  # steps of the student, >= 1; its teacher makes twice as many
    weighting: str = "truncated_snr"  # weight at t, see `losses.weightings`; the paper's choice

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        weighting(self.weighting)
        super().__post_init__()

    @property
    def needs(self) -> frozenset[str]:
        """The teacher."""
        return frozenset({"teacher"})

    def grid(self) -> Tensor:
        """The teacher's levels, (2 steps + 1,) float64, decreasing; every other one is ours."""
        return karras_sigmas(2 * self.steps + 1, self.sigma_min, self.sigma_max, self.rho)

    def levels(
        self, batch_size: int, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, Tensor]:
        """Both ends of uniformly drawn student steps; see `Consistency.levels`."""
        where = generator.device
        sigmas = self.grid()[::2].to(where)
        index = torch.randint(self.steps, (batch_size,), generator=generator, device=where)
        return sigmas[index], sigmas[index + 1]

    def point(self, batch: Batch, models: Models, progress: float) -> Tensor:
        """x_r by two steps of the teacher, (batch, C, H, W) float64.

        The target divides by t - r, which would show the rounding of float32.

        Raises:
            ValueError: without a teacher.
        """
        if models.teacher is None:
            raise ValueError("progressive distillation needs a teacher; none was given")
        x, t, r = batch.draw["x_t"].double(), batch.draw["t"], batch.draw["r"]
        root = 1 / self.rho
        middle = ((t**root + r**root) / 2) ** self.rho
        for at, to in ((t, middle), (middle, r)):
            x = Euler().step(models.teacher, x, at, to, batch.labels)
        return x

    def target(
        self, x_r: Tensor, r: Tensor, batch: Batch, models: Models, progress: float
    ) -> Tensor:
        """The image from which one step t -> r lands on x_r, (batch, C, H, W)."""
        x_t = batch.draw["x_t"]
        t, r = (level.reshape(-1, 1, 1, 1) for level in (batch.draw["t"], r))
        image: Tensor = (t * x_r - r * x_t) / (t - r)
        return image.to(x_t.dtype)

    def weight(self, t: Tensor, r: Tensor, models: Models) -> Tensor:
        """Weight of each image, shape and dtype of t."""
        return weighting(self.weighting)(t, r, models.student.sigma_data)
