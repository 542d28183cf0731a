"""A mixture of Gaussians in the plane: exact samples, exact denoiser, exact trajectories."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ctm_fast.data import ImageDataset
from ctm_fast.rng import stream
from ctm_fast.sigmas import karras_sigmas
from ctm_fast.solvers import solve

COMPONENTS = 8
SIZE = 1 << 17  # points of the data set; a run sees each of them a few times at most
_DATA, _FRESH = 1, 2  # keep the streams of training data and of fresh samples apart


@dataclass(frozen=True)
class Mixture:
    """Eight Gaussians of unequal weight and width on a ring; points are images (batch, 2, 1, 1).

    Per coordinate the standard deviation is 0.75, that of the digits.
    """

    radius: float = 1.04
    widths: tuple[float, float] = (0.08, 0.2)  # standard deviations, in turn

    @cached_property
    def means(self) -> Tensor:
        """(components, 2) float64."""
        angles = torch.arange(COMPONENTS, dtype=torch.float64) * (2 * torch.pi / COMPONENTS)
        return self.radius * torch.stack([angles.cos(), angles.sin()], 1)

    @cached_property
    def stds(self) -> Tensor:
        """(components,) float64."""
        return torch.tensor(self.widths, dtype=torch.float64).repeat(COMPONENTS // 2)

    @cached_property
    def weights(self) -> Tensor:
        """(components,) float64, sum 1; neighbours differ, opposite ones are equal."""
        values = torch.tensor([1.0, 2.0, 3.0, 2.0], dtype=torch.float64).repeat(2)
        return values / values.sum()

    @property
    def std(self) -> float:
        """Standard deviation per coordinate."""
        second = self.weights @ (self.means.square().sum(1) / 2 + self.stds**2)
        return float(second.sqrt())

    def samples(self, count: int, seed: int, *, kind: int = _FRESH) -> Tensor:
        """Exact samples (count, 2, 1, 1) float64."""
        generator = stream(seed, kind)
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, 2, generator=generator, dtype=torch.float64)
        return (self.means[which] + self.stds[which, None] * noise)[:, :, None, None]

    def denoised(self, x: Tensor, sigma: Any, labels: Tensor | None = None) -> Tensor:
        """E[x0 | x], shape of x; `sigma` is a number or (batch,)."""
        points, level = x.double().flatten(1), torch.as_tensor(sigma, dtype=torch.float64)
        var = self.stds**2 + level.reshape(-1, 1) ** 2
        offset = points[:, None] - self.means
        log_joint = self.weights.log() - var.log() - offset.square().sum(-1) / (2 * var)
        means = self.means + (self.stds**2 / var)[..., None] * offset
        return (log_joint.softmax(1)[..., None] * means).sum(1).reshape(x.shape).to(x.dtype)

    def carried(self, x: Tensor, high: float, low: float, steps: int = 400) -> Tensor:
        """Points at level `low` on the exact trajectories through (x, high), by Heun in float64."""
        return solve(self.denoised, x.double(), karras_sigmas(steps + 1, low, high))


class Points(ImageDataset):
    """Exact samples of a `Mixture` as a data set of images (2, 1, 1) without classes.

    Args:
        mixture: where they come from.
        seed: of the samples.
        size: how many.
    """

    def __init__(self, mixture: Mixture, seed: int = 0, size: int = SIZE) -> None:
        super().__init__("mixture", (2, 1, 1))
        self.mixture = mixture
        self._points = mixture.samples(size, seed, kind=_DATA).float()

    def __len__(self) -> int:
        return len(self._points)

    def pixels(self, indices: Tensor) -> Tensor:
        """Points have no grey levels."""
        raise NotImplementedError("the points of a mixture are no pixels")

    def images(self, indices: Any) -> Tensor:
        """Points (b, 2, 1, 1) float32, not limited to [-1, 1]."""
        return self._points[self._checked(indices)]

    @property
    def sigma_data(self) -> float:
        """Exact standard deviation per coordinate."""
        return self.mixture.std
