"""Where a host's noise comes from: its generator, its `randn_like`, or one seed per image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ..sampler.seeding import INITIAL, NoiseSampler, as_seeds, noise_for

RandnLike = Callable[[Tensor], Tensor]


class Noise:
    """Unit Gaussian noise in the order in which a host asks for it.

    Args:
        generator: None is PyTorch's global generator; a `torch.Generator` draws for the whole
            batch; a list has one `torch.Generator` or one integer per image, and then an image
            does not depend on the others of its batch; anything else must have
            .randn(*shape, device=) and .randn_like(x).

    Raises:
        ValueError: for anything else.
    """

    def __init__(self, generator: Any = None) -> None:
        listed = isinstance(generator, Sequence) and len(generator) > 0
        self.generators: Sequence[torch.Generator] | None = None
        self.seeds: list[int] | None = None
        if listed and all(isinstance(g, torch.Generator) for g in generator):
            self.generators = generator
        elif listed and all(isinstance(g, Integral) for g in generator):
            self.seeds = as_seeds(generator, len(generator))
        elif not (generator is None or isinstance(generator, torch.Generator)) and not all(
            hasattr(generator, name) for name in ("randn", "randn_like")
        ):
            raise ValueError(
                f"generator is {generator!r}; need None, a torch.Generator, one torch.Generator "
                "or integer per image, or an object with randn and randn_like"
            )
        self.generator = generator
        self.drawn = INITIAL

    def randn(
        self, shape: Sequence[int], device: Any = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Next noise of the given shape; the first axis is the batch.

        Raises:
            ValueError: if there is one seed or generator per image of another number of images.
        """
        own = self.generators or self.seeds
        if own is not None and len(own) != shape[0]:
            raise ValueError(f"{len(own)} generators for a batch of {shape[0]} images")
        if self.generators is not None:
            rows = [_randn(shape[1:], g, device, dtype) for g in self.generators]
            return torch.stack(rows)
        if self.seeds is not None:
            step, self.drawn = self.drawn, self.drawn + 1
            return noise_for(self.seeds, step, shape[1:], device, dtype)
        if self.generator is None or isinstance(self.generator, torch.Generator):
            return _randn(shape, self.generator, device, dtype)
        return self.generator.randn(*shape, device=device).to(dtype)

    def randn_like(self, x: Tensor) -> Tensor:
        """Next noise, shape, device and dtype of x."""
        if hasattr(self.generator, "randn_like"):
            return self.generator.randn_like(x)
        return self.randn(x.shape, x.device, x.dtype)


class EveryStep:
    """Noise sampler (k-diffusion's form) that draws once per step up to the one that needs it.

    Several hosts draw noise at every step and multiply what they do not need by 0. Drawing in
    their order gives their images under the same seed.

    Args:
        randn_like: draws the noise.
        like: images of the dtype in which the host draws.
        sigmas: levels of the run, decreasing.
    """

    def __init__(self, randn_like: RandnLike, like: Tensor, sigmas: Sequence[float]) -> None:
        self.randn_like, self.like = randn_like, like
        self.steps = {float(sigma): i for i, sigma in enumerate(sigmas)}
        self.drawn = 0

    def __call__(self, sigma: Tensor, sigma_to: Tensor) -> Tensor:
        """Unit noise of the step that starts at `sigma`."""
        step = self.steps[float(sigma)]
        for _ in range(self.drawn, step):
            self.randn_like(self.like)
        self.drawn = step + 1
        return self.randn_like(self.like)


def each(randn_like: RandnLike, like: Tensor) -> NoiseSampler:
    """Noise sampler (k-diffusion's form) that draws only when a step needs noise."""

    def draw(sigma: Tensor, sigma_to: Tensor) -> Tensor:
        return randn_like(like)

    return draw


def _randn(
    shape: Sequence[int], generator: torch.Generator | None, device: Any, dtype: torch.dtype
) -> Tensor:
    # A generator draws where it lives: the same noise whatever device the host computes on.
    where = device if generator is None else generator.device
    drawn = torch.randn(tuple(shape), generator=generator, device=where, dtype=dtype)
    return drawn if device is None else drawn.to(device)
