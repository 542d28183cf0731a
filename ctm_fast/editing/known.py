"""`Known`: a model that knows a part of its images. Song et al. 2023, arXiv:2303.01469."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..sampler.step_tables import SAME_LEVEL
from ..wrappers.group import Group, calls_of, level_of
from .operators import Operator

Climb = Callable[[float, int], Tensor]


class Known(Group):
    """Model whose answers have the known part that was measured.

    A denoised image gets the measured part itself. A jump from t to s moves the known part along
    the flow of a point mass at the measured one, to m + sqrt((s^2 - s0^2)/(t^2 - s0^2)) (A x - m)
    with s0 the last level: at s0 it is the measured one, above it keeps its own noise, so that
    jumps of gamma = 0 stay deterministic. With gamma = 1, where all jumps end at s0, this is Song
    et al.'s Algorithm 4.

    Args:
        model: a `Denoiser`, or anything with its methods and attributes.
        operator: what is known.
        measured: (batch, ...) its values.
        low: s0, > 0; the model's sigma_min if not given.
        repeats: jumps per step. After all but the last one noise lifts the image back to where the
            step began, so that the unknown part learns of the known one.
        climb: called as climb(sigma, repeat), returns that unit noise; needed for repeats > 1.

    Source: Song et al. 2023, Algorithm 4; Lugmayr et al. 2022 (RePaint) for the repetitions.
    """

    def __init__(
        self,
        model: Any,
        operator: Operator,
        measured: Tensor,
        low: float | None = None,
        repeats: int = 1,
        climb: Climb | None = None,
    ) -> None:
        super().__init__([model])
        self.operator, self.measured = operator, measured
        self.repeats, self.climb = repeats, climb
        self.sigma_min, self.sigma_max = float(model.sigma_min), float(model.sigma_max)
        self.low = float(low or self.sigma_min)
        self.network_calls = calls_of(model) * repeats

    def forward(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """E[image | x] with the measured part, (batch, C, H, W)."""
        (model,) = self.members
        denoised = model(x, level_of(model, sigma, x), **_labels(labels))
        return self.operator.replaced(denoised, self.measured)

    def jump(
        self,
        x: Tensor,
        sigma: Tensor | float,
        sigma_to: Tensor | float,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Point at `sigma_to`, (batch, C, H, W), its known part on the flow to the measured one.

        Args:
            x: (batch, C, H, W) noisy images.
            sigma: noise level of x, one number.
            sigma_to: destination, one number.
            labels: as in `Denoiser.jump`.
        """
        (model,) = self.members
        t, s = float(sigma), float(sigma_to)
        levels = level_of(model, sigma, x), level_of(model, sigma_to, x)
        share = point_mass_share(t, s, self.low)
        repeat = 0
        while True:
            landed: Tensor = model.jump(x, *levels, **_labels(labels))
            guide = self.measured
            if share > 0:
                guide = guide + share * (self.operator.measure(x) - guide)
            landed = self.operator.replaced(landed, guide)
            repeat += 1
            if repeat == self.repeats:
                return landed
            assert self.climb is not None
            noise = self.climb(t, repeat).to(x.dtype)
            x = torch.add(landed, noise, alpha=math.sqrt((t - s) * (t + s)))


def point_mass_share(t: float, s: float, low: float) -> float:
    """Share of its noise that a point keeps from t to s: sqrt((s^2 - low^2) / (t^2 - low^2)).

    0 where s is the lowest level up to rounding.
    """
    if s <= low * (1 + SAME_LEVEL):
        return 0.0
    return math.sqrt((s - low) * (s + low) / ((t - low) * (t + low)))


def _labels(labels: Tensor | None) -> dict[str, Tensor]:
    return {} if labels is None else {"labels": labels}
