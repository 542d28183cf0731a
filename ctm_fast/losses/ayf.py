"""Align Your Flow (AYF), Eulerian map distillation. Sabour et al. 2025, arXiv:2506.14603.

Legend: z = (1 - t) x0 + t noise; f(z, t, s) = z + (s - t) F(z, t, s) is the student's flow map;
v is the teacher's velocity; F- is the student without gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..wrappers.guidance import Guided
from .consistency import check_student
from .linear_path import (
    FlowTimes,
    average_velocity,
    column,
    each_apart,
    path_point,
    velocity,
    velocity_slope,
    within,
)
from .objective import Batch, Models, OneTerm
from .tangents import NORMALISATIONS, check_method, check_normalisation
from .trajectories import teacher_of


@dataclass(frozen=True)
class AYF(OneTerm):
    """|F - stop_gradient(F- + g)|^2 with the tangent g = (v - F-) + w (s - t) dF-/dt, normalised.

    That tangent is df-/dt as z moves with the teacher: the flow map must not change along a
    trajectory. w rises with training from 0 (flow matching of the teacher) to `limit`, which stays
    below 1 and keeps trajectories straight.

    With `guidance` lambda the velocity is lambda v + (1 - lambda) v of a weak model (autoguidance;
    without one, of the teacher without labels). Here lambda is fixed, where the paper draws it and
    tells it to the network; the times are MeanFlow's; there is no adversarial fine-tuning.

    The student is a `Denoiser` of kind "trajectory" with the outer parametrisation `Euler`.
    `student_from(teacher, exact=True)` makes one that begins as the teacher exactly, for a flow
    model and for EDM's scalings alike: F = (x - (1 + sigma) g)/sigma is the velocity of the
    teacher's denoised image g.

    Raises:
        ValueError: for values outside the ranges stated beside them.

    Source: Sabour et al. 2025 (AYF-EMD). The numbers are unverified.
    """

    term: ClassVar[str] = "ayf"
    student_kind: ClassVar[str] = "trajectory"  # `kind` of the `Denoiser` that is trained
    capturable: ClassVar[bool] = False  # a graph cannot replay the dropout masks

    times: FlowTimes = field(default_factory=FlowTimes)  # how t and s are drawn; unverified
    guidance: float = 1.0  # lambda, >= 1; 1: no autoguidance
    warmup: float = 0.1  # share of training in which w rises linearly, in [0, 1]; unverified
    limit: float = 0.99  # largest w, in (0, 1]
    normalisation: str = "norm"  # of g: norm | rms | clip | none, see `losses.tangents`
    offset: float = 0.1  # c in g/(|g| + c), > 0
    how: str = "forward"  # derivative: forward (exact) | difference, see `losses.tangents`

    def __post_init__(self) -> None:
        check_method(self.how)
        check_normalisation(self.normalisation, self.offset)
        if not self.guidance >= 1:
            raise ValueError(f"guidance must be at least 1, got {self.guidance}")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup must be in [0, 1], got {self.warmup}")
        if not 0 < self.limit <= 1:
            raise ValueError(f"limit must be in (0, 1], got {self.limit}")

    @property
    def needs(self) -> frozenset[str]:
        """The teacher."""
        return frozenset({"teacher"})

    def strength(self, progress: float) -> float:
        """w, the factor of dF-/dt: rises linearly to `limit`, in [0, limit]."""
        return self.limit * (min(progress / self.warmup, 1.0) if self.warmup else 1.0)

    def draw(
        self,
        batch_size: int,
        shape: tuple[int, ...],
        generator: torch.Generator,
        progress: float = 0.0,
    ) -> dict[str, Any]:
        """Times t and s, float64, which images jump, and unit noise."""
        t, s = self.times.sample(batch_size, generator)
        noise = torch.randn(batch_size, *shape, generator=generator, device=generator.device)
        return {"t": t, "s": s, "moves": (s < t).long(), "noise": noise}

    @torch.no_grad()
    def prepare(self, batch: Batch, models: Models, progress: float = 0.0) -> None:
        """The point z, the teacher's velocity there, and both times within the student's range.

        Raises:
            ValueError: for a student that does not jump, or a teacher that is missing or cannot be
                guided.
        """
        check_student(models, self.student_kind, type(self).__name__)
        draw = batch.draw
        teacher: Any = teacher_of(models)
        draw["t"], draw["s"] = (within(draw[name], models.student) for name in "ts")
        draw["z"] = path_point(batch.images, draw["noise"], draw["t"])
        if self.guidance != 1:
            teacher = Guided(teacher, models.weak, weight=self.guidance)
        draw["v"] = velocity(teacher, draw["z"], draw["t"], batch.labels)

    def order(self, batch: Batch) -> Tensor | None:
        """Images that jump last, so that fewer microbatches need the derivative."""
        moves = batch.known("moves")
        return None if moves is None else moves.argsort(stable=True)

    def loss(self, term: str, batch: Batch, models: Models, progress: float = 0.0) -> Tensor:
        """Squared error per image, summed over pixels, (batch,); its value is |g|^2.

        Raises:
            ValueError: for another term.
        """
        if term not in self.terms:
            raise ValueError(f"unknown term {term!r}; this objective has {self.terms}")
        draw, student, w = batch.draw, models.student, self.strength(progress)

        def error(
            jumps: bool, z: Tensor, t: Tensor, s: Tensor, v: Tensor, labels: Tensor | None
        ) -> Tensor:
            slope: Tensor | float = 0.0
            if jumps and w > 0:
                slope = velocity_slope(student, z, t, s, v, labels, self.how)
            F = average_velocity(student, z, t, s, labels)
            frozen = F.detach()
            g = (v - frozen) + column(w * (s - t), z) * slope
            target = frozen + NORMALISATIONS[self.normalisation](g, self.offset)
            return ((F - target) ** 2).flatten(1).sum(1)

        given = (draw[name] for name in ("z", "t", "s", "v"))
        return each_apart(error, batch.known("moves"), *given, batch.labels)
