"""`StrokePainter`: images from strokes. Meng et al. 2022 (SDEdit), arXiv:2108.01073."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..sampler import Sampler, noise_for, sampling_sigmas
from ..sampler.jumps import Callback
from ..sampler.seeding import INITIAL, SeededNoise
from ..sigmas import RHO
from .checks import checked_values
from .running import Labels, in_batches, ordered, sampled


@dataclass(frozen=True)
class StrokePainter:
    """Images of the data that look like given ones: `painter(strokes, seed=0)`.

    The given images are noised up to a level and sampled from there. A higher level, like more
    gamma, leaves less of them; just above sigma_min they come back as they are.

    Args:
        sampler: says how; its last level is where the given images are taken to be.
        sigma: level to begin at, above the last one and at most the model's sigma_max. The
            sampler's number of steps is then spaced anew below it. None: at the sampler's own
            first level, with its own levels.

    Raises:
        ValueError: for a level outside that range, or one beside a method whose levels are its own
            ("jumps", "phased"): give these in the sampler.

    Source: SDEdit, Algorithm 1; CTM, Section 5.2, for gamma.
    """

    sampler: Sampler
    sigma: float | None = None

    def __post_init__(self) -> None:
        sampler = self.sampler
        if self.sigma is None:
            return
        low, high = self._low(), float(sampler.model.sigma_max)
        if not low < self.sigma <= high:
            raise ValueError(f"sigma is {self.sigma}; it must lie in ({low:g}, {high:g}]")
        if sampler.method in ("jumps", "phased"):
            raise ValueError(
                f"sigma={self.sigma} with method {sampler.method!r}: give the sampler sigmas that "
                "begin there, and no sigma here"
            )

    def _low(self) -> float:
        return float(self.sampler.sigmas[-1]) or float(self.sampler.model.sigma_min)

    @property
    def levels(self) -> tuple[float, ...]:
        """Levels of the steps, decreasing."""
        sampler = self.sampler
        if self.sigma is None:
            return tuple(sampler.sigmas)
        method, steps, rho = str(sampler.method), sampler.steps, sampler.rho or RHO
        assert steps is not None
        kind = sampler.model.kind
        return tuple(sampling_sigmas(method, steps, self._low(), self.sigma, rho, kind).tolist())

    @property
    def nfe(self) -> int:
        """Network calls per image."""
        return self.sampler.nfe

    def __call__(
        self,
        images: Tensor,
        *,
        labels: Labels = None,
        seed: int | Iterable[int] | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Images (num, C, H, W), in [-1, 1] if the sampler clips.

        Args:
            images: (num, C, H, W) float, the strokes, in [-1, 1] if the sampler clips.
            labels: (num,) integers, or one for all; required by a conditional model.
            seed: of the run, by default 0, or one per image; see `Sampler`.
            callback: as of `Sampler.__call__`.

        Raises:
            ValueError: for images of another shape or range, or bad labels or seeds.
        """
        sampler, levels, low = self.sampler, self.levels, self._low()
        num = len(images) if isinstance(images, Tensor) and images.ndim > 0 else 1
        order = ordered(sampler, num, labels, seed)
        strokes = checked_values(images, order.shape, sampler.clip, "the image")
        std = math.sqrt((levels[0] - low) * (levels[0] + low))

        def make(model: Any, rows: slice, seeds: Tensor, told: dict[str, Tensor]) -> Tensor:
            noise = noise_for(seeds, INITIAL, order.shape, dtype=sampler.state_dtype)
            x = torch.add(strokes[rows].to(noise), noise, alpha=std)
            drawn = SeededNoise(seeds, levels, x)
            return sampled(sampler, model, x, levels, told, callback, drawn)

        painted = in_batches(sampler, order, make)
        return painted.clamp_(-1, 1) if sampler.clip else painted
