"""The Gaussian with the mean and covariance of a data set: what a model has to be better than."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

FULL_DIMS = 4096  # values per image up to which a covariance matrix is made
IMAGES_PER_DIM = 4  # and at least so many images for each of them


@dataclass(frozen=True)
class GaussianFit:
    """N(mean, covariance) over images; see `GaussianFit.of`."""

    mean: Tensor  # (d,) float64
    factor: Tensor  # (d, d) float64 lower Cholesky factor, or (d,) deviations
    shape: tuple[int, ...]  # of one image

    @property
    def covariance(self) -> str:
        """full or diagonal."""
        return "full" if self.factor.ndim == 2 else "diagonal"

    @staticmethod
    def of(
        images: Callable[[Tensor], Tensor],
        num: int,
        width: float = 0.0,
        batch_size: int = 1024,
    ) -> GaussianFit:
        """Maximum-likelihood fit to images, and to the noise that dequantises them.

        The covariance matrix is full for at most FULL_DIMS values per image and at least
        IMAGES_PER_DIM images for each value, else diagonal.

        Args:
            images: called with indices (n,) int64; returns (n, ...) images.
            num: number of images, at least 2.
            width: of the uniform noise that is added to evaluate them; width^2/12 is added to every
                variance, and keeps pixels that never change from having none.
            batch_size: images read at once.

        Raises:
            ValueError: for fewer than two images, or values without any variance.
        """
        if num < 2:
            raise ValueError(f"a Gaussian needs at least 2 images, got {num}")
        shape = tuple(images(torch.zeros(1, dtype=torch.int64)).shape[1:])
        dims = math.prod(shape)
        full = dims <= FULL_DIMS and num >= IMAGES_PER_DIM * dims
        mean = sum(part.sum(0) for part in _parts(images, num, batch_size)) / num
        assert isinstance(mean, Tensor)
        size = (dims, dims) if full else (dims,)
        total = torch.zeros(size, dtype=torch.float64)
        for part in _parts(images, num, batch_size):
            off = part - mean
            total += off.T @ off if full else off.square().sum(0)
        total /= num
        noise = width**2 / 12
        diagonal = total.diagonal() if full else total
        diagonal += noise
        if not bool((diagonal > 0).all()):
            raise ValueError("some values are the same in all images; give the width of the noise")
        if not full:
            return GaussianFit(mean, total.sqrt(), shape)
        factor, failed = torch.linalg.cholesky_ex(total)
        if int(failed):
            raise ValueError("the covariance matrix is singular; give the width of the noise")
        return GaussianFit(mean, factor, shape)

    def log_prob(self, images: Tensor) -> Tensor:
        """Log density of images (batch, *shape), (batch,) float64 nats.

        Raises:
            ValueError: for images of another shape.
        """
        if images.shape[1:] != self.shape:
            raise ValueError(
                f"images have shape {tuple(images.shape)}; need (batch, *{self.shape})"
            )
        off = images.to(self.mean).flatten(1) - self.mean
        if self.factor.ndim == 2:
            unit = torch.linalg.solve_triangular(self.factor, off.T, upper=False).T
            scale = self.factor.diagonal()
        else:
            unit, scale = off / self.factor, self.factor
        norm = len(self.mean) * math.log(2 * math.pi) + 2 * float(scale.log().sum())
        return -0.5 * (unit.square().sum(1) + norm)


def _parts(images: Callable[[Tensor], Tensor], num: int, batch_size: int) -> Iterator[Tensor]:
    return (images(rows).double().flatten(1) for rows in torch.arange(num).split(batch_size))
