"""Counts network evaluations in a few steps of a network of one layer."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..denoiser import Denoiser
from ..inner import EDM, LinearFlow
from ..losses import L2, LPIPS, OBJECTIVES, Batch, Models
from ..noise_embeddings import FlowTime
from ..precond import Preconditioning
from ..rng import stream

POSITIONS = tuple((k + 0.5) / 8 for k in range(8))  # of the run, in [0, 1)
BATCH, SIZE, CLASSES = 128, 4, 2


def probed(objective: Any) -> dict[str, float]:
    """Evaluations per image, by the names of `Calls`, with random numbers that are always the same.

    Raises:
        ValueError: for an objective that the networks of one layer do not suit.
    """
    told = _with_plain_distance(objective)
    counts: Counter[str] = Counter()
    models = _models(told, counts)
    shape = (1, SIZE, SIZE)
    labels = torch.arange(BATCH) % CLASSES
    if getattr(told, "wants_data", False):
        told.attach(torch.randn(BATCH, *shape, generator=stream(1)), labels)
    for step, progress in enumerate(POSITIONS):
        images = torch.randn(BATCH, *shape, generator=stream(0, step)).clamp(-1, 1)
        draw = told.draw(BATCH, shape, stream(2, step), progress)
        draw.setdefault("step", step)
        batch = Batch(images, labels, draw)
        with torch.no_grad():
            told.prepare(batch, models, progress)
        active = getattr(told, "active", lambda term, batch: True)
        for term in told.terms:
            if active(term, batch):
                told.loss(term, batch, models, progress)
                counts["distances"] += BATCH
    images_in_all = BATCH * len(POSITIONS)
    return {name: count / images_in_all for name, count in counts.items()}


class _Probe(nn.Module):
    """One convolution that adds the images it sees to `counts`."""

    img_channels, img_resolution, label_dim, augment_dim = 1, SIZE, CLASSES, 0

    def __init__(self, counts: Counter[str], frozen: str, destination: bool) -> None:
        super().__init__()
        self.counts, self.frozen, self.has_destination = counts, frozen, destination
        self.last_layer = nn.Conv2d(1, 1, 1)
        self.level = nn.Parameter(torch.full((), 0.1))

    def forward(
        self, x: Tensor, c_noise: Tensor, c_noise_to: Tensor | None = None, labels: Any = None
    ) -> Tensor:
        self.counts[self._how(x, c_noise)] += len(x)
        levels = c_noise if c_noise_to is None else c_noise + c_noise_to
        return self.last_layer(x) + self.level * levels.reshape(-1, 1, 1, 1).to(x)

    def features(
        self, x: Tensor, c_noise: Tensor, labels: Any = None, c_noise_to: Tensor | None = None
    ) -> list[Tensor]:
        gradient = torch.is_grad_enabled() and x.requires_grad
        self.counts["features_through" if gradient else "features"] += len(x)
        return [self.last_layer(x)]

    def _how(self, x: Tensor, c_noise: Tensor) -> str:
        if any(_dual(value) for value in (x, c_noise)):
            return "tangents"
        if not torch.is_grad_enabled():
            return self.frozen
        if self.level.requires_grad:
            return "trained"
        return "through" if x.requires_grad else self.frozen


def _dual(value: Tensor) -> bool:
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(value).tangent is not None


def _models(objective: Any, counts: Counter[str]) -> Models:
    kind = getattr(objective, "student_kind", None)
    name = OBJECTIVES.name_of(objective)
    if kind is None:
        kind = "denoiser" if name == "dsm" else "trajectory"
    precond = Preconditioning(EDM(0.5))
    if name == "meanflow":
        precond = Preconditioning(LinearFlow(0.5), noise_embedding=FlowTime())
    student = Denoiser(_Probe(counts, "frozen", kind == "trajectory"), precond, kind=kind)
    target = copy.copy(student)
    target.__dict__["_modules"] = {"net": _Probe(counts, "frozen", kind == "trajectory")}
    wanted = getattr(objective, "teacher_kind", None) or "denoiser"
    own = precond if wanted == kind else Preconditioning(EDM(0.5))
    teacher = Denoiser(_Probe(counts, "teacher", False), own, kind=wanted)
    frozen = (m.eval().requires_grad_(False) for m in (target, teacher))
    target, teacher = frozen
    make = getattr(objective, "companion", None)
    models = Models(student.train(), target, teacher)
    if make is not None:
        models = dataclasses.replace(models, companion=make(models))
        counts.clear()  # it may have asked the networks for their sizes
    return models


def _with_plain_distance(objective: Any) -> Any:
    """The objective without weight files: what is compared does not change who is called."""
    if isinstance(getattr(objective, "distance", None), LPIPS):
        return dataclasses.replace(objective, distance=L2())
    return objective
