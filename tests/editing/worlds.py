"""Correlated Gaussian images, whose denoiser, jumps and conditional distributions are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ctm_fast.sampler import Sampler

SIZE, STD, LENGTH = 4, 0.3, 1.5


@dataclass(frozen=True)
class Conditional:
    """Distribution of the unknown pixels given the known ones."""

    mean: Tensor  # (unknown,)
    covariance: Tensor  # (unknown, unknown)


class Correlated:
    """Exact model of images N(0, covariance) in a model's clothes; counts its network calls."""

    label_dim, sigma_min, sigma_max = 0, 0.002, 80.0

    def __init__(
        self, kind: str = "trajectory", channels: int = 1, size: int = SIZE, label_dim: int = 0
    ) -> None:
        self.kind, self.calls, self.label_dim = kind, 0, label_dim
        self.img_channels, self.img_resolution = channels, size
        self.covariance = covariance(channels, size)
        self.variances, self.axes = torch.linalg.eigh(self.covariance)

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.kind == "consistency":
            return self._scaled(x, (self.variances + self.sigma_min**2).sqrt(), sigma, 0.5)
        return self._scaled(x, self.variances, sigma, 1.0)

    def jump(
        self, x: Tensor, sigma: Tensor, sigma_to: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        ends = (self.variances + sigma_to.double()[:, None] ** 2).sqrt()
        return self._scaled(x, ends, sigma, 0.5)

    def _scaled(self, x: Tensor, ends: Tensor, sigma: Tensor, power: float) -> Tensor:
        self.calls += 1
        assert sigma.shape == (len(x),)
        gains = ends / (self.variances + sigma.double()[:, None] ** 2) ** power
        along = x.flatten(1).double() @ self.axes * gains
        return (along @ self.axes.T).reshape(x.shape).to(x.dtype)

    def images(self, num: int, seed: int = 0) -> Tensor:
        """Samples of the data, (num, C, H, W) float64."""
        shape = (num, self.img_channels, self.img_resolution, self.img_resolution)
        unit = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()
        root = self.axes * self.variances.sqrt()
        return (unit.flatten(1) @ root.T).reshape(shape)

    def conditional(self, image: Tensor, known: Tensor) -> Conditional:
        """Of the pixels outside the mask (H, W) given those of the image (C, H, W) inside."""
        inside = known.expand_as(image).flatten()
        C, k, u = self.covariance, inside, ~inside
        gain = C[u][:, k] @ torch.linalg.inv(C[k][:, k])
        return Conditional(gain @ image.flatten()[k], C[u][:, u] - gain @ C[k][:, u])


def covariance(channels: int, size: int) -> Tensor:
    """Of pixels that are the more alike the nearer they are, channels too, (dims, dims)."""
    axes = [torch.arange(n).double() for n in (channels, size, size)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    return STD**2 * torch.exp(-torch.cdist(places, places) / LENGTH)


def sampler(kind: str = "trajectory", channels: int = 1, **options: Any) -> Sampler:
    """Sampler of a correlated world, in float64."""
    label_dim = options.pop("label_dim", 0)
    model = Correlated(kind, channels, label_dim=label_dim)
    return Sampler(model, **{"state_dtype": torch.float64, **options})


def left_half(size: int = SIZE) -> Tensor:
    """Mask whose left half is known, (H, W)."""
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[:, : size // 2] = True
    return mask
