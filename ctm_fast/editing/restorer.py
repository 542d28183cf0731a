"""`Restorer`: images of which a part is known. Song et al. 2023, arXiv:2303.01469."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ..sampler import Sampler, noise_for
from ..sampler.arguments import image_shape
from ..sampler.jumps import Callback
from ..sampler.methods import JUMP_METHODS
from ..sampler.seeding import INITIAL, SeededNoise
from .known import Known
from .operators import Operator
from .running import Labels, in_batches, ordered, sampled

AGAIN = 1 << 48  # the noise of repetition n of step i has the number n * AGAIN + i + 1


@dataclass(frozen=True)
class Restorer:
    """Inpainting, colourisation or super-resolution: `restorer(known, seed=0)`.

    The sampler says how: kinds, methods, gamma, levels and batches are its own. Models that jump
    land, get the known part and are noised again; models that denoise get it in every denoised
    image of their ODE. No gradient is needed, and no training.

    gamma = 1 with many steps follows the distribution of the unknown part given the known one; with
    few steps, or smaller gamma, the unknown part learns less of the known one. `repeats` buys more
    of it by network calls. So do the sampler's Langevin corrections (corrector_steps), whose score
    has the known part too, but they widen the distribution.

    Args:
        sampler: `Sampler(model, steps=40, gamma=1)`, for example; any method.
        operator: `Inpainting(mask)`, `Colourisation()`, `SuperResolution(factor)`, or another.
        repeats: jumps per step, >= 1; 1 for methods without jumps.

    Raises:
        ValueError: for an operator that does not fit the model's images, or bad `repeats`.

    Source: Song et al. 2023, Algorithm 4; with gamma as in CTM, Algorithm 2.
    """

    sampler: Sampler
    operator: Operator
    repeats: int = 1

    def __post_init__(self) -> None:
        repeats, method = self.repeats, self.sampler.method
        if isinstance(repeats, bool) or not isinstance(repeats, Integral) or repeats < 1:
            raise ValueError(f"repeats is {repeats!r}; it must be an integer, at least 1")
        if repeats > 1 and method not in JUMP_METHODS:
            raise ValueError(f"repeats={repeats} needs a method that jumps, not {method!r}")
        if not isinstance(self.operator, Operator):
            raise ValueError(
                f"operator is a {type(self.operator).__name__}; need Inpainting(mask), "
                "Colourisation(), SuperResolution(factor) or another Operator"
            )
        self.operator.measured_shape(image_shape(self.sampler.model))

    @property
    def nfe(self) -> int:
        """Network calls per image."""
        assert self.sampler.steps is not None
        calls = self.sampler.steps * getattr(self.sampler.model, "network_calls", 1)
        return self.sampler.nfe + (self.repeats - 1) * calls

    def __call__(
        self,
        known: Tensor,
        *,
        labels: Labels = None,
        seed: int | Iterable[int] | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Images (num, C, H, W) with that known part, in [-1, 1] if the sampler clips.

        Known pixels of inpainting are those given, bit by bit; luma and means are those given up to
        float rounding, also after clipping.

        Args:
            known: (num, *) float, one for each image that is wanted: for inpainting images
                (num, C, H, W), of which the unknown pixels are not looked at; for colourisation
                the luma (num, 1, H, W); for super-resolution the small images; of other operators
                what they measure. `operator.measure(images)` makes it of images.
            labels: (num,) integers, or one for all; required by a conditional model.
            seed: of the run, by default 0, or one per image; see `Sampler`. Image k depends on its
                own seed and on its own known part alone.
            callback: called at every step of every batch with the keys x, i, sigma, sigma_hat and
                denoised, which has the known part.

        Raises:
            ValueError: for a known part of another shape or range, or bad labels or seeds.
        """
        sampler, operator = self.sampler, self.operator
        num = len(known) if isinstance(known, Tensor) and known.ndim > 0 else 1
        order = ordered(sampler, num, labels, seed)
        asked = operator.checked(known, order.shape, sampler.clip)

        def make(model: Any, rows: slice, seeds: Tensor, told: dict[str, Tensor]) -> Tensor:
            own = operator.rows(rows, seeds.device)
            noise = noise_for(seeds, INITIAL, order.shape, dtype=sampler.state_dtype)
            measured = asked[rows].to(noise)
            x = torch.add(own.spread(measured), noise, alpha=sampler.sigmas[0])
            steps = {float(sigma): i for i, sigma in enumerate(sampler.sigmas)}

            def climb(sigma: float, repeat: int) -> Tensor:
                number = repeat * AGAIN + INITIAL + 1 + steps[sigma]
                return noise_for(seeds, number, order.shape, dtype=sampler.state_dtype)

            knowing = Known(model, own, measured, sampler.sigmas[-1], self.repeats, climb)
            drawn = SeededNoise(seeds, sampler.sigmas, x)
            images = sampled(sampler, knowing, x, sampler.sigmas, told, callback, drawn)
            return (own.clipped if sampler.clip else own.replaced)(images, measured)

        return in_batches(sampler, order, make)
