"""Improved consistency training (iCT). Song & Dhariwal 2023, arXiv:2310.14189.

The five choices: levels t, r are neighbours on a Karras grid whose fineness doubles, drawn by a
log-normal; x_r has the same noise as x_t; the target is the student itself, never an average;
pseudo-Huber distance of whole images; weight 1/(t - r).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..curricula import AnyScales, DoublingScales
from ..densities import DiscretisedLogNormal
from ..registry import choice
from .consistency import GridConsistency


@dataclass(frozen=True)
class ICT(GridConsistency):
    """Improved consistency training: no teacher, no average.

    The distance is `PseudoHuber`, whose c = 0.00054 sqrt(d) is 0.0299 for CIFAR-10 and 0.0599 for
    ImageNet-64. An average as target would bias the limit of fine grids, so there is none.

    Raises:
        ValueError: for numbers out of range.

    Source: Song & Dhariwal 2023, Section 3 and Table 1. There is no published code.
    """

    scales: AnyScales = choice("ctm_fast.curricula:SCALES", DoublingScales)  # number of levels N
    P_mean: float = -1.1  # mean of ln sigma; its sign is a known trap
    P_std: float = 2.0  # standard deviation of ln sigma, > 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.density(0.0)

    def density(self, progress: float) -> DiscretisedLogNormal:
        """Distribution of the intervals of the grid."""
        return DiscretisedLogNormal(
            self.scales.num_scales(progress),
            self.P_mean,
            self.P_std,
            self.sigma_min,
            self.sigma_max,
            self.rho,
        )

    def levels(
        self, batch_size: int, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, Tensor]:
        """Both ends of intervals of the grid; see `Consistency.levels`."""
        return self.density(progress).pairs(batch_size, generator)
