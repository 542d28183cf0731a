"""`Encoder`: the noise that an image comes from. Song et al. 2021, arXiv:2011.13456."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from torch import Tensor

from ..sampler import Sampler
from ..sampler.jumps import level_for
from ..sigmas import RHO, karras_sigmas
from ..solvers import Heun, solve
from .checks import checked_values
from .running import Labels, in_batches, ordered


@dataclass(frozen=True)
class Encoder:
    """First states of images: `sampler(noise=encoder(images))` makes the images again.

    The probability-flow ODE is solved upwards, from sigma_min to the sampler's first level, by
    Heun's method. That takes a model that denoises at every level: a teacher, or a trajectory
    model, whose g(x, t, t) does. Jumps upwards are not trained.

    Args:
        sampler: its model is called, and its first level is where the noise lies. A teacher's
            sampler may encode for a student's with the same first level.
        steps: of the solver, >= 1.

    Raises:
        ValueError: for a consistency model, which does not denoise, or bad `steps`.

    Source: Song et al. 2021 (score-based SDEs), Section 4.3; Karras et al. 2022, Algorithm 1.
    """

    sampler: Sampler
    steps: int = 18

    def __post_init__(self) -> None:
        kind = self.sampler.model.kind
        if kind == "consistency":
            raise ValueError(
                "a consistency model does not denoise, so it cannot encode; use its teacher, or a "
                "trajectory model"
            )
        steps = self.steps
        if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 1:
            raise ValueError(f"steps is {steps!r}; it must be an integer, at least 1")

    @property
    def nfe(self) -> int:
        """Network calls per image."""
        return 2 * self.steps * getattr(self.sampler.model, "network_calls", 1)

    def __call__(self, images: Tensor, *, labels: Labels = None) -> Tensor:
        """First states (num, C, H, W) as `sampler(noise=...)` takes them, in its `state_dtype`.

        Args:
            images: (num, C, H, W) float, in [-1, 1] if the sampler clips.
            labels: (num,) integers, or one for all; required by a conditional model.

        Raises:
            ValueError: for images of another shape or range, or bad labels.
        """
        sampler = self.sampler
        num = len(images) if isinstance(images, Tensor) and images.ndim > 0 else 1
        order = ordered(sampler, num, labels, None)
        clean = checked_values(images, order.shape, sampler.clip, "the image")
        low, high = float(sampler.model.sigma_min), sampler.sigmas[0]
        levels = karras_sigmas(self.steps + 1, low, high, sampler.rho or RHO).flip(0)

        def make(model: Any, rows: slice, seeds: Tensor, told: dict[str, Tensor]) -> Tensor:
            def denoise(x: Tensor, sigma: Any, labels: Any = None, /) -> Tensor:
                return model(x, level_for(model, sigma, x), **told)

            x = clean[rows].to(seeds.device, sampler.state_dtype)
            return solve(denoise, x, levels, Heun())

        noise = in_batches(sampler, order, make)
        return noise if sampler.latents == "scaled" else noise / high


def one_state(noise: Any, shape: Iterable[int], name: str) -> Tensor:
    """The first state of one image, (1, C, H, W).

    Raises:
        ValueError: unless it is a float tensor (C, H, W) or (1, C, H, W).
    """
    shape = tuple(shape)
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        raise ValueError(f"{name} is a {type(noise).__name__}; need an integer seed or noise")
    if noise.shape not in (shape, (1, *shape)):
        raise ValueError(f"{name} is {tuple(noise.shape)}; need the noise of one image, {shape}")
    return noise.reshape(1, *shape)
