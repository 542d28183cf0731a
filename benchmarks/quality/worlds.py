"""What the methods are compared on: data, teacher, first students, and measures of samples."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from ctm_fast import data as datasets
from ctm_fast.cli.students import kind_of, student_for
from ctm_fast.data import ImageDataset
from ctm_fast.denoiser import Denoiser
from ctm_fast.evaluation import OfflineProtocol
from ctm_fast.precond import EDM, Preconditioning
from ctm_fast.presets import preset_named
from ctm_fast.rng import stream
from ctm_fast.sampler import Sampler

from .mixture import Mixture, Points
from .points import PointsNet, points_student

LOW, HIGH = 0.01, 20.0  # noise levels of all presets for the digits
DIRECTIONS = 128  # of the sliced Wasserstein distance


class World(Protocol):
    """Data with a teacher's network, students' networks, and measures."""

    name: str
    batch_size: int
    teacher_steps: int

    @property
    def dataset(self) -> ImageDataset:
        """What the networks are trained on."""
        ...

    def teacher_net(self, seed: int) -> Denoiser:
        """Denoiser with random weights."""
        ...

    def student(self, objective: Any, teacher: Denoiser, seed: int) -> Denoiser:
        """What an objective trains, with the teacher's weights."""
        ...

    def sampler(self, model: Denoiser, steps: int, method: str | None = None) -> Sampler:
        """How models are sampled."""
        ...

    def measures(self, sampler: Sampler, seed: int) -> dict[str, float]:
        """Numbers about a sampler's images."""
        ...

    def real(self) -> dict[str, float]:
        """The same numbers of real data, those that have a meaning."""
        ...

    def picture(self, sampler: Sampler) -> Tensor:
        """Images to look at, (n, 1, H, W) in [-1, 1]; as many for every sampler."""
        ...


@dataclass(frozen=True)
class MixtureWorld:
    """Points in the plane, where everything is known exactly."""

    name: str = "mixture"
    batch_size: int = 256
    teacher_steps: int = 10_000
    samples: int = 20_000  # that are compared
    mapped: int = 2_048  # points whose end on the exact trajectory is known
    mixture: Mixture = field(default_factory=Mixture)

    @cached_property
    def dataset(self) -> ImageDataset:
        return Points(self.mixture)

    def teacher_net(self, seed: int) -> Denoiser:
        precond = Preconditioning(EDM(self.mixture.std))
        return Denoiser(PointsNet(seed=seed), precond, sigma_min=LOW, sigma_max=HIGH)

    def student(self, objective: Any, teacher: Denoiser, seed: int) -> Denoiser:
        return points_student(teacher, kind_of(objective), seed)

    def sampler(self, model: Denoiser, steps: int, method: str | None = None) -> Sampler:
        """Points are not limited to [-1, 1]."""
        return Sampler(model, steps, method, clip=False)

    def measures(self, sampler: Sampler, seed: int) -> dict[str, float]:
        """Sliced Wasserstein distance, and distance to the exact end of the same trajectory.

        The second has a meaning only where no noise is added on the way.
        """
        x, ends = self._trajectories
        points = sampler(self.samples, seed=seed)
        found = {"sliced_wasserstein": sliced_wasserstein(points, self._fresh)}
        if sampler.method not in ("cm_multistep", "phased"):
            error = sampler(len(x), noise=x).double() - ends
            found["map_error"] = float(error.square().flatten(1).sum(1).mean().sqrt())
        return found

    def real(self) -> dict[str, float]:
        other = self.mixture.samples(self.samples, seed=2)
        return {"sliced_wasserstein": sliced_wasserstein(other, self._fresh)}

    def picture(self, sampler: Sampler) -> Tensor:
        """How many points lie in each cell of a square, as a grey level."""
        return counted_cells(sampler(self.samples, seed=1))

    @cached_property
    def _fresh(self) -> Tensor:
        return self.mixture.samples(self.samples, seed=1)

    @cached_property
    def _trajectories(self) -> tuple[Tensor, Tensor]:
        noise = torch.randn(self.mapped, 2, 1, 1, generator=stream(3), dtype=torch.float64)
        x = HIGH * noise
        return x.float(), self.mixture.carried(x, HIGH, LOW)


@dataclass(frozen=True)
class DigitsWorld:
    """The embedded 8x8 digits, class-conditional, with the measures of the demo."""

    name: str = "digits"
    batch_size: int = 64
    teacher_steps: int = 1_000
    seed: int = 0  # of the split of the real images

    @cached_property
    def dataset(self) -> ImageDataset:
        return datasets.open("digits")

    def teacher_net(self, seed: int) -> Denoiser:
        objective = preset_named("dsm-digits").objective()
        return student_for(objective, self.dataset, None, seed=seed, sigma_range=(LOW, HIGH))

    def student(self, objective: Any, teacher: Denoiser, seed: int) -> Denoiser:
        return student_for(objective, self.dataset, teacher, seed=seed)

    def sampler(self, model: Denoiser, steps: int, method: str | None = None) -> Sampler:
        return Sampler(model, steps, method)

    def measures(self, sampler: Sampler, seed: int) -> dict[str, float]:
        """1-NN accuracy, precision, recall, agreement with the class, class score, copies."""
        labels = self._protocol.labels
        images = sampler(labels=labels, seed=seed)
        return _known(self._protocol.row(images, labels))

    def real(self) -> dict[str, float]:
        return _known(self._protocol.real_row())

    def picture(self, sampler: Sampler) -> Tensor:
        """Ten images, one of each class."""
        return sampler(labels=torch.arange(10), seed=1).float()

    @cached_property
    def _protocol(self) -> OfflineProtocol:
        return OfflineProtocol(self.dataset, self.seed)


def world_named(name: str, **options: Any) -> World:
    """The world of that name.

    Raises:
        ValueError: for an unknown name.
    """
    worlds: dict[str, Any] = {"mixture": MixtureWorld(), "digits": DigitsWorld()}
    if name not in worlds:
        raise ValueError(f"unknown world {name!r}; choose from {sorted(worlds)}")
    made: World = replace(worlds[name], **options)
    return made


def sliced_wasserstein(a: Tensor, b: Tensor, directions: int = DIRECTIONS) -> float:
    """Root mean square, over directions, of the Wasserstein-2 distance of the projections.

    Args:
        a: (N, ...) points.
        b: (N, ...) points, as many.
        directions: fixed random unit vectors.

    Raises:
        ValueError: for sets of different sizes.
    """
    if len(a) != len(b):
        raise ValueError(f"sets of different sizes: {len(a)} and {len(b)}")
    a, b = a.flatten(1).double(), b.flatten(1).double()
    across = torch.randn(a.shape[1], directions, generator=stream(7), dtype=torch.float64)
    across = across / across.norm(dim=0)
    difference = (a @ across).sort(0).values - (b @ across).sort(0).values
    return float(difference.square().mean().sqrt())


def counted_cells(points: Tensor, cells: int = 80, half_width: float = 1.6) -> Tensor:
    """Square root of the counts of points (N, 2, 1, 1) in the cells of a square, (1, 1, c, c)."""
    edges = (points.flatten(1).float() / half_width + 1) / 2 * cells
    column, row = edges.long().clamp(-1, cells).unbind(1)
    inside = (column >= 0) & (column < cells) & (row >= 0) & (row < cells)
    cell = (cells - 1 - row[inside]) * cells + column[inside]
    counts = torch.bincount(cell, minlength=cells**2).reshape(1, 1, cells, cells).sqrt()
    return 1 - 2 * (counts / (8 * len(points) / cells**2) ** 0.5).clamp(max=1)


def _known(row: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in row.items() if value is not None}
