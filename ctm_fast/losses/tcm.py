"""Truncated consistency models (TCM). Lee et al. 2024, arXiv:2410.14895.

The five choices: t from a heavy-tailed density above the dividing level t', r close to t; the pair
shares its noise; the target is the student itself down to t' and the frozen model of a first stage
below; the norm of the whole image; weight 1/(t - r). A share of the batch sits at t', where the
targets are the first stage's: that ties the student to it, which a loss above t' alone does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..densities import AnyDensity, LogStudentT, TruncatedLogNormal
from ..gaps import AnyGap, SigmoidGap
from ..registry import choice
from ..wrappers import Routed
from .distances import AnyDistance, Norm
from .ect import ECT
from .moves import on_device
from .objective import Batch, Models

BESIDE = 1e-8  # the rows at the boundary are that much above it. Source: TCM's published code


def published_distance() -> Norm:
    """c = 1e-8 of the published CIFAR-10 run."""
    return Norm(c=1e-8)


def published_gap() -> SigmoidGap:
    """The published CIFAR-10 mapping where it has come to its cap r/t = 0.999, with r >= 1e-6."""
    return SigmoidGap(q=2.0**10, stages=1, ratio_limit=0.999, floor=1e-6)


def first_stage() -> ECT:
    """The objective of the published CIFAR-10 first stage.

    It is ECT on levels within [0.002, 80], the ratio r/t capped and r floored. ImageNet-64 has
    `density=TruncatedLogNormal(-0.8, 1.6)`, `gap=SigmoidGap(q=4, stages=4, ratio_limit=0.9961,
    floor=1e-6)`, `distance=Norm(c=0.06)` and `weighting="karras"`. Its average of weights is both
    the student at the beginning and the teacher of the second stage, `TCM`.
    """
    gap = SigmoidGap(q=2.0, stages=10, ratio_limit=0.999, floor=1e-6)
    return ECT(distance=published_distance(), density=TruncatedLogNormal(), gap=gap)


def two_teachers(first: Denoiser, diffusion: Denoiser, boundary: float = 1.0) -> Routed:
    """Teacher of `TCM(distil=True)`: the first stage below t', the diffusion model from there on.

    Args:
        first: model of the first stage.
        diffusion: denoiser that `point` follows; its network is shared, not copied.
        boundary: t', as in the objective.

    Returns:
        A group that holds both; its kind is that of `first`, as a group has one.
    """
    shared = Denoiser(
        diffusion.net,
        diffusion.precond,
        kind=first.kind,
        sigma_min=first.sigma_min,
        sigma_max=diffusion.sigma_max,
        dtype=diffusion.dtype,
    )
    return Routed([first, shared], [boundary])


@dataclass(frozen=True)
class TCM(ECT):
    """The second stage: a consistency model of the levels above t' only.

    `Models.teacher` is the first stage's model, f_1. The student begins with its weights and learns

        f(x, t) = student(x, t) from t' on, f_1(x, t) below,

    of which only the upper part is trained. The loss of a step is

        mean over other rows + boundary_weight * mean over the rows at t',

    both over the whole batch of the step: the rows carry what makes their plain mean that number.
    Sampling has to route in the same way where it visits levels below t': `wrappers.Routed`.

    Defaults are those of the published CIFAR-10 run. ImageNet-64 has `distance=Norm(c=0.06)`,
    `weighting="karras"`, and 0.9961 as the cap of the gap.

    In passes of the target f_1 is in the student's mode, so it drops what the student drops. A
    batch is passed in two parts, the rows of f_1's targets and the others, as masks belong to a
    call; with microbatches the rows are sorted, so that at most one of them is cut.

    Raises:
        ValueError: for numbers out of range, or a density that has levels below the boundary.

    Source: Lee et al. 2024, Sections 4 and 5, and its published code.
    """

    teacher_kind: ClassVar[str] = "consistency"  # `kind` of the model of the first stage

    distance: AnyDistance = choice("ctm_fast.losses.distances:DISTANCES", published_distance)
    density: AnyDensity = choice("ctm_fast.densities:DENSITIES", LogStudentT)  # of t, from t' on
    gap: AnyGap = choice("ctm_fast.gaps:GAPS", published_gap)  # r(t, stage)
    boundary: float = 1.0  # the dividing level t', > 0
    boundary_share: float = 0.25  # of the batch, rounded down, is put at t'; in [0, 1)
    boundary_weight: float = 0.1  # of the mean over those rows, >= 0
    distil: bool = False  # x_r by an Euler step of a diffusion model; see `two_teachers`

    def __post_init__(self) -> None:
        super().__post_init__()
        low = self.density.low if isinstance(self.density, LogStudentT | TruncatedLogNormal) else 0
        if not 0 < self.boundary <= low:
            raise ValueError(
                f"the density must have no level below boundary={self.boundary}, which must be "
                f"positive; got {self.density}. LogStudentT and TruncatedLogNormal can be cut"
            )
        if not (0 <= self.boundary_share < 1 and self.boundary_weight >= 0):
            raise ValueError(
                f"need 0 <= boundary_share < 1 and boundary_weight >= 0, got "
                f"boundary_share={self.boundary_share}, boundary_weight={self.boundary_weight}"
            )

    @property
    def needs(self) -> frozenset[str]:
        """The first stage's model as teacher."""
        return frozenset({"teacher"})

    def draw(
        self,
        batch_size: int,
        shape: tuple[int, ...],
        generator: torch.Generator,
        progress: float = 0.0,
    ) -> dict[str, Any]:
        """ECT's numbers; a share of the rows at t', and what each row's loss is multiplied by."""
        draw = super().draw(batch_size, shape, generator, progress)
        t, count = draw["t"], math.floor(self.boundary_share * batch_size + 1e-9)
        rows = torch.randperm(batch_size, generator=generator, device=t.device)[:count]
        t[rows] = self.boundary + BESIDE
        draw["r"] = self.gap.r(t, self.gap.stage(progress))
        share = torch.full_like(t, batch_size / max(batch_size - count, 1))
        share[rows] = self.boundary_weight * batch_size / max(count, 1)
        draw["share"], draw["below"] = share, draw["r"] < self.boundary
        return draw

    def order(self, batch: Batch) -> Tensor | None:
        """Rows with targets of the first stage before the others."""
        below = batch.known("below")
        return None if below is None else torch.argsort((~below).long(), stable=True)

    @torch.no_grad()
    def prepare(self, batch: Batch, models: Models, progress: float = 0.0) -> None:
        """Both points and the weight, in which the means over both kinds of rows are contained.

        Raises:
            ValueError: for a student or a teacher of another kind, or a teacher that does not hold
                the diffusion model which `distil` needs.
        """
        first_of(models)
        super().prepare(batch, models, progress)
        batch.draw["weight"] = batch.draw["weight"] * batch.draw["share"].to(batch.images.dtype)

    def point(self, batch: Batch, models: Models, progress: float) -> Tensor:
        """x_r: the image with the same noise, or with `distil` an Euler step from x_t."""
        if not self.distil:
            return super().point(batch, models, progress)
        if not isinstance(models.teacher, Routed):
            raise ValueError(
                "TCM(distil=True) needs the first stage and a diffusion model; give "
                "teacher=two_teachers(first, diffusion)"
            )
        draw, diffusion = batch.draw, models.teacher.members[-1]
        x_t, t, r = draw["x_t"], draw["t"], draw["r"]
        denoised = diffusion(x_t, t.to(x_t.dtype), batch.labels)
        step = ((r - t) / t).to(x_t.dtype).reshape(-1, 1, 1, 1)
        return x_t + step * (x_t - denoised)

    def target(
        self, x_r: Tensor, r: Tensor, batch: Batch, models: Models, progress: float
    ) -> Tensor:
        """The truncated function at x_r, (batch, C, H, W); each network sees its rows alone."""
        parts = _parts(batch)
        if len(parts) > 1:
            found = []
            for rows in parts:
                at = on_device(rows, x_r.device)
                found.append(self.target(x_r[at], r[at], _only(batch, rows), models, progress))
            return _in_order(found, parts)
        if not _below(batch).all():
            return super().target(x_r, r, batch, models, progress)
        first = first_of(models)
        with _in_mode_of(first, models.student):
            return super().target(x_r, r, batch, replace(models, student=first), progress)

    def loss(self, term: str, batch: Batch, models: Models, progress: float = 0.0) -> Tensor:
        """Weighted distance per image, (batch,), the rows of each target network in one call.

        Raises:
            ValueError: for another term.
        """
        parts = _parts(batch)
        if len(parts) == 1:
            return super().loss(term, batch, models, progress)
        found = [self.loss(term, _only(batch, rows), models, progress) for rows in parts]
        return _in_order(found, parts)


def first_of(models: Models) -> Denoiser:
    """The first stage's model.

    Raises:
        ValueError: without a teacher, or with one that is not a consistency model.
    """
    teacher: Any = models.teacher
    first = teacher.members[0] if isinstance(teacher, Routed) else teacher
    if getattr(first, "kind", None) != TCM.teacher_kind:
        raise ValueError(
            f"TCM needs the model of its first stage as teacher, of kind {TCM.teacher_kind!r}; "
            f"got {getattr(first, 'kind', None)!r}"
        )
    return first


def _below(batch: Batch) -> Tensor:
    known = batch.known("below")
    return batch.draw["below"].cpu() if known is None else known


def _parts(batch: Batch) -> list[Tensor]:
    """Rows whose target is the first stage's, and the others, where there are any."""
    below = _below(batch)
    parts = [mask.nonzero().flatten() for mask in (below, ~below)]
    return [rows for rows in parts if len(rows) > 0] or parts[:1]


def _in_order(found: list[Tensor], parts: list[Tensor]) -> Tensor:
    return torch.cat(found)[on_device(torch.cat(parts).argsort(), found[0].device)]


def _only(batch: Batch, rows: Tensor) -> Batch:
    part = batch.slice(0, len(batch))
    part.reorder(rows)
    return part


@contextmanager
def _in_mode_of(model: nn.Module, other: nn.Module) -> Iterator[None]:
    before = model.training
    if before == other.training:
        yield
        return
    model.train(other.training)
    try:
        yield
    finally:
        model.train(before)
