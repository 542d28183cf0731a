"""MeanFlow: average velocities from the identity u = v - (t - r) du/dt. Geng et al. 2025.

arXiv:2505.13447. Legend: z = (1 - t) x0 + t noise; u(z, t, r) is the student's average velocity,
v = noise - x0; du/dt is its derivative along (v, 1, 0) in (z, t, r).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from .consistency import check_student
from .linear_path import (
    FlowTimes,
    average_velocity,
    column,
    each_apart,
    path_point,
    velocity_slope,
    within,
)
from .objective import Batch, Models, OneTerm
from .tangents import check_method


@dataclass(frozen=True)
class MeanFlow(OneTerm):
    """|u - stop_gradient(v - (t - r) du/dt)|^2, divided by (itself + eps)^power.

    The student is a `Denoiser` of kind "trajectory" with the outer parametrisation `Euler`;
    published is `Preconditioning(LinearFlow(), noise_embedding=FlowTime())`. Images with r = t are
    plain flow matching. Defaults are those of the later CIFAR-10 runs; for ImageNet-256 latents
    they are power 1 and eps 0.01, `PUBLISHED_TIMES["imagenet"]`, omega 1, kappa 0.5 and
    label_dropout 0.1.

    With omega or kappa the student learns velocities that are guided already, at no price when
    sampling: v becomes omega v + (1 - omega - kappa) u(z, t, t) + kappa u(z, t, t | label) for t
    in [guided_from, guided_to], with the student's own u without and with label.

    The derivative is taken inside the loss, of the images that jump, with the dropout masks of the
    estimate; it adds nothing to the graph, and gradients are synchronised as those of other losses.

    Raises:
        ValueError: for values outside the ranges stated beside them.

    Source: Geng et al. 2025, Eq. 6; published code (Gsunshine/meanflow, Gsunshine/py-meanflow).
    """

    student_kind: ClassVar[str] = "trajectory"  # `kind` of the `Denoiser` that is trained
    term: ClassVar[str] = "meanflow"
    capturable: ClassVar[bool] = False  # a graph cannot replay the dropout masks

    times: FlowTimes = field(default_factory=FlowTimes)  # how t and r are drawn
    power: float = 0.75  # p of the adaptive weight, >= 0; 0: plain squared error
    eps: float = 1e-3  # added to the squared error in the weight, > 0
    omega: float = 1.0  # factor of the data's velocity; with kappa = 0 the guidance scale
    kappa: float = 0.0  # factor of the student's own velocity with label, in [0, 1)
    guided_from: float = 0.0  # smallest t with guidance, in [0, 1]
    guided_to: float = 1.0  # largest one
    label_dropout: float = 0.0  # share of images trained without label or guidance, in [0, 1]
    how: str = "forward"  # derivative: forward (exact) | difference, see `losses.tangents`

    def __post_init__(self) -> None:
        check_method(self.how)
        if not (self.power >= 0 and self.eps > 0):
            raise ValueError(f"need power >= 0 and eps > 0, got {self.power} and {self.eps}")
        if not 0 <= self.kappa < 1:
            raise ValueError(f"kappa must be in [0, 1), got {self.kappa}")
        if not 0 <= self.guided_from <= self.guided_to <= 1:
            raise ValueError(
                "need 0 <= guided_from <= guided_to <= 1, got "
                f"{self.guided_from} and {self.guided_to}"
            )
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"label_dropout must be in [0, 1], got {self.label_dropout}")

    @property
    def guided(self) -> bool:
        """Whether velocities are guided in training."""
        return self.omega != 1 or self.kappa != 0

    def draw(
        self,
        batch_size: int,
        shape: tuple[int, ...],
        generator: torch.Generator,
        progress: float = 0.0,
    ) -> dict[str, Any]:
        """Times t and r, float64, which images jump, unit noise, and which labels are kept."""
        t, r = self.times.sample(batch_size, generator)
        noise = torch.randn(batch_size, *shape, generator=generator, device=generator.device)
        draw: dict[str, Any] = {"t": t, "r": r, "moves": (r < t).long(), "noise": noise}
        if self.label_dropout > 0:
            uniform = torch.rand(batch_size, generator=generator, device=generator.device)
            draw["keep_label"] = uniform >= self.label_dropout
        return draw

    @torch.no_grad()
    def prepare(self, batch: Batch, models: Models, progress: float = 0.0) -> None:
        """The point z, its velocity, and both times within the student's range.

        Raises:
            ValueError: for a student that does not jump, or guidance without labels.
        """
        check_student(models, self.student_kind, type(self).__name__)
        draw, images = batch.draw, batch.images
        draw["t"], draw["r"] = (within(draw[name], models.student) for name in "tr")
        draw["z"] = path_point(images, draw["noise"], draw["t"])
        draw["v"] = draw["noise"] - images
        if self.guided:
            draw["v"] = self._guided(batch, models)

    def _guided(self, batch: Batch, models: Models) -> Tensor:
        draw, labels, student = batch.draw, batch.labels, models.student
        if labels is None:
            raise ValueError(
                f"omega={self.omega} with kappa={self.kappa} guides by labels, and this batch has "
                "none; train a class-conditional student, or leave omega at 1 and kappa at 0"
            )
        z, t, v = draw["z"], draw["t"], draw["v"]
        here = (self.guided_from <= t) & (t <= self.guided_to)
        if "keep_label" in draw:
            here = here & draw["keep_label"]
        without = average_velocity(student, z, t, t)
        found = self.omega * v + (1 - self.omega - self.kappa) * without
        if self.kappa:
            found = found + self.kappa * average_velocity(student, z, t, t, labels)
        return torch.where(here.reshape(-1, *[1] * (z.ndim - 1)), found, v)

    def order(self, batch: Batch) -> Tensor | None:
        """Images that jump last, so that fewer microbatches need the derivative."""
        moves = batch.known("moves")
        return None if moves is None else moves.argsort(stable=True)

    def labels(self, batch: Batch, models: Models) -> Tensor | None:
        """What the student is told: the batch's labels, or weights of the classes with gaps."""
        if batch.labels is None or "keep_label" not in batch.draw:
            return batch.labels
        one_hot = functional.one_hot(batch.labels, models.student.label_dim)
        return one_hot.to(batch.images.dtype) * batch.draw["keep_label"][:, None]

    def loss(self, term: str, batch: Batch, models: Models, progress: float = 0.0) -> Tensor:
        """Weighted squared error per image, summed over pixels, (batch,).

        Raises:
            ValueError: for another term.
        """
        if term not in self.terms:
            raise ValueError(f"unknown term {term!r}; this objective has {self.terms}")
        draw, student = batch.draw, models.student

        def error(
            jumps: bool, z: Tensor, t: Tensor, r: Tensor, v: Tensor, labels: Tensor | None
        ) -> Tensor:
            target = v
            if jumps:
                slope = velocity_slope(student, z, t, r, v, labels, self.how)
                target = v - column(t - r, z) * slope
            u = average_velocity(student, z, t, r, labels)
            return ((u - target) ** 2).flatten(1).sum(1)

        given = (draw[name] for name in ("z", "t", "r", "v"))
        squared = each_apart(error, batch.known("moves"), *given, self.labels(batch, models))
        return squared / (squared.detach() + self.eps) ** self.power
