"""Euler's method, order 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Denoise, Level, expand


@dataclass(frozen=True)
class Euler:
    """x + (sigma_to - sigma) dx/dsigma; a step to 0 returns the denoised images."""

    order: ClassVar[int] = 1
    nfe: ClassVar[int] = 1

    def step(
        self,
        denoiser: Denoise,
        x: Tensor,
        sigma: Level,
        sigma_to: Level,
        labels: Tensor | None = None,
    ) -> Tensor:
        """x at `sigma_to`; x (batch, ...), levels are numbers or (batch,)."""
        denoised = denoiser(x, sigma, labels)
        # Not x plus a difference: from a large sigma that would cancel nearly everything.
        return denoised + expand(sigma_to / sigma, x) * (x - denoised)
