"""Noise-level grids and ranges. Karras et al. 2022, arXiv:2206.00364."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

SIGMA_MIN = 0.002
SIGMA_MAX = 80.0
RHO = 7.0


def check_sigma_range(sigma_min: float, sigma_max: float) -> None:
    """Raise ValueError unless 0 < sigma_min < sigma_max and both are finite."""
    if not (0 < sigma_min < sigma_max < math.inf):
        raise ValueError(
            f"need 0 < sigma_min < sigma_max < inf, got sigma_min={sigma_min}, "
            f"sigma_max={sigma_max}"
        )


def karras_sigma(
    position: Tensor, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO
) -> Tensor:
    """Noise level at a real position of the Karras ramp: 0 is sigma_max, 1 is sigma_min.

    Args:
        position: any shape, values in [0, 1]; the result has its shape and dtype.
        sigma_min: smallest noise level, > 0.
        sigma_max: largest noise level.
        rho: > 0; 7 in all published models.

    Source: Karras et al. 2022, Eq. 5; CTM's `get_t` with a real index.
    """
    check_sigma_range(sigma_min, sigma_max)
    if rho <= 0:
        raise ValueError(f"rho must be positive, got {rho}")
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return (high + position * (low - high)) ** rho


def karras_sigmas(
    num_scales: int,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
    rho: float = RHO,
) -> Tensor:
    """Noise levels spaced evenly in sigma ** (1 / rho).

    Returns:
        sigmas: (num_scales,) float64, from sigma_max down to sigma_min. No zero is appended.

    Raises:
        ValueError: unless num_scales >= 2 and 0 < sigma_min < sigma_max.

    Source: Karras et al. 2022, Eq. 5.
    """
    if num_scales < 2:
        raise ValueError(f"num_scales must be at least 2, got {num_scales}")
    position = torch.arange(num_scales, dtype=torch.float64) / (num_scales - 1)
    sigmas = karras_sigma(position, sigma_min, sigma_max, rho)
    sigmas[0], sigmas[-1] = sigma_max, sigma_min
    return sigmas


@dataclass(frozen=True)
class SigmaRange:
    """Range of noise levels, [low, high), or [low, high] if closed."""

    low: float  # smallest noise level in the range, >= 0
    high: float  # upper end, > low
    closed: bool = False  # whether `high` itself belongs to the range

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise ValueError(f"need 0 <= low < high, got low={self.low}, high={self.high}")

    def contains(self, sigma: Tensor) -> Tensor:
        """Boolean mask of the levels inside the range, shape of `sigma`."""
        below = sigma <= self.high if self.closed else sigma < self.high
        return (sigma >= self.low) & below


def partition(boundaries: list[float]) -> list[SigmaRange]:
    """Ranges between consecutive boundaries, ascending; the last one holds its upper end too.

    Raises:
        ValueError: for fewer than two boundaries or boundaries that do not increase.
    """
    if len(boundaries) < 2:
        raise ValueError(f"need at least two boundaries, got {boundaries}")
    last = boundaries[-1]
    return [SigmaRange(low, high, high == last) for low, high in pairwise(boundaries)]
