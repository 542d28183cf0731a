"""What the discrete-time consistency objectives (CM, iCT, ECT, SCT, TCM) have in common.

Two points of one trajectory, x_t and x_r with r < t, have to give the same image:

    E[ weight(t, r) distance( f(x_t, t), stop_gradient f(x_r, r) ) ]

Legend: f(x, t) is the student, t and r are the noise levels, x0 is the image.
Song et al. 2023 (CM), arXiv:2303.01469.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..models.dropout import replayed
from ..registry import choice
from ..sigmas import RHO, SIGMA_MAX, SIGMA_MIN, check_sigma_range
from .distances import AnyDistance, PseudoHuber
from .dsm import noised
from .objective import Batch, Models, OneTerm


@dataclass(frozen=True)
class Consistency(OneTerm):
    """Base of the objectives; each of them says where its five choices differ.

    Levels: `levels`, which each objective has to give. Pair: `point`, by default the image with
    the same noise. Who jumps: `estimate`, the student, and `target`, by default the student as it
    is, without gradient and with the same dropout masks. Then `distance` and `weight`.

    A loss is only what the batch and `draw` say: t, r and noise from `draw`; x_t, x_r and the
    weight from `prepare`. The target is computed microbatch by microbatch in `loss`, because only
    there it can share the estimate's dropout masks.
    """

    term: ClassVar[str] = "consistency"
    student_kind: ClassVar[str] = "consistency"  # `kind` of the `Denoiser` that is trained
    capturable: ClassVar[bool] = False  # a graph cannot replay the dropout masks of the target

    distance: AnyDistance = choice("ctm_fast.losses.distances:DISTANCES", PseudoHuber)

    def levels(
        self, batch_size: int, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, Tensor]:
        """Noise levels t and r, (batch_size,) float64 each, on the generator's device.

        0 <= r < t; where r is 0 the other end is the image itself.
        """
        raise NotImplementedError

    def point(self, batch: Batch, models: Models, progress: float) -> Tensor:
        """x_r, (batch, C, H, W), without gradient; by default images + r noise.

        Called by `prepare` when `batch.draw` already has x_t.
        """
        return noised(batch.images, _like(batch.draw["r"], batch.images), batch.draw["noise"])

    def estimate(
        self, x_t: Tensor, t: Tensor, batch: Batch, models: Models, progress: float
    ) -> Tensor:
        """f(x_t, t) with gradient, (batch, C, H, W); by default the student's."""
        image: Tensor = models.student(x_t, t, batch.labels)
        return image

    def target(
        self, x_r: Tensor, r: Tensor, batch: Batch, models: Models, progress: float
    ) -> Tensor:
        """f(x_r, r), (batch, C, H, W), called without gradient; by default the student's.

        Rows with r = 0 are the images, bit by bit.
        """
        # All rows go through the network, so that each has the dropout mask of its estimate; at
        # level 0 it would be told -inf, so those rows are told another level and then replaced.
        at_zero = r == 0
        found = models.student(x_r, torch.where(at_zero, torch.ones_like(r), r), batch.labels)
        return torch.where(at_zero.reshape(-1, 1, 1, 1), batch.images, found)

    def weight(self, t: Tensor, r: Tensor, models: Models) -> Tensor:
        """Weight of each image, shape and dtype of `t` (float64); by default 1/(t - r)."""
        return 1 / (t - r)

    def draw(
        self,
        batch_size: int,
        shape: tuple[int, ...],
        generator: torch.Generator,
        progress: float = 0.0,
    ) -> dict[str, Any]:
        """Noise levels t and r, float64, and the unit noise of both points."""
        t, r = self.levels(batch_size, generator, progress)
        noise = torch.randn(batch_size, *shape, generator=generator, device=generator.device)
        return {"t": t, "r": r, "noise": noise}

    @torch.no_grad()
    def prepare(self, batch: Batch, models: Models, progress: float = 0.0) -> None:
        """Both points and the weight.

        Raises:
            ValueError: for a student that is not a consistency model.
        """
        check_student(models, self.student_kind, type(self).__name__)
        draw, images = batch.draw, batch.images
        draw["x_t"] = noised(images, _like(draw["t"], images), draw["noise"])
        draw["x_r"] = self.point(batch, models, progress)
        draw["weight"] = _like(self.weight(draw["t"], draw["r"], models), images)

    def loss(self, term: str, batch: Batch, models: Models, progress: float = 0.0) -> Tensor:
        """Weighted distance per image, (batch,).

        Raises:
            ValueError: for another term.
        """
        if term not in self.terms:
            raise ValueError(f"unknown term {term!r}; this objective has {self.terms}")
        estimate, targets = self.compared(batch, models, progress)
        distance = self.distance(estimate, targets, batch.labels, models)
        weight: Tensor = batch.draw["weight"]
        return weight * distance

    def compared(
        self, batch: Batch, models: Models, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The estimate, (batch, C, H, W), and what `distance` keeps of its target."""
        draw, labels = batch.draw, batch.labels
        x_t, x_r = draw["x_t"], draw["x_r"]
        with torch.no_grad(), replayed(x_t.device):
            target = self.target(x_r, _like(draw["r"], x_r), batch, models, progress)
            targets = self.distance.targets(target, labels, models)
        return self.estimate(x_t, _like(draw["t"], x_t), batch, models, progress), targets


@dataclass(frozen=True)
class GridConsistency(Consistency):
    """Base of those whose levels are neighbours on a Karras grid.

    Raises:
        ValueError: for numbers out of range.
    """

    sigma_min: float = SIGMA_MIN  # smallest level of the grid
    sigma_max: float = SIGMA_MAX  # largest level of the grid
    rho: float = RHO  # exponent of the grid

    def __post_init__(self) -> None:
        check_sigma_range(self.sigma_min, self.sigma_max)

    def prepare(self, batch: Batch, models: Models, progress: float = 0.0) -> None:
        """Both points and the weight.

        Raises:
            ValueError: for a student of another kind or with a smaller range of noise levels.
        """
        low, high, student = self.sigma_min, self.sigma_max, models.student
        least, most = getattr(student, "sigma_min", low), getattr(student, "sigma_max", high)
        if low < least or high > most:
            raise ValueError(
                f"{type(self).__name__} draws levels in [{low}, {high}]; the student knows "
                f"[{least}, {most}]"
            )
        super().prepare(batch, models, progress)


def check_student(models: Models, kind: str, objective: str) -> None:
    """Raise ValueError unless the student is a `Denoiser` of that kind."""
    found = getattr(models.student, "kind", kind)
    if found != kind:
        raise ValueError(
            f"{objective} trains a student of kind {kind!r}, got kind {found!r}; make it by "
            f"Denoiser(net, precond, kind={kind!r})"
        )


def _like(level: Tensor, x: Tensor) -> Tensor:
    return level.to(x.dtype)
