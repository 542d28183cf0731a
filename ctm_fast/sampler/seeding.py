"""One random stream per image: noise is a function of the image's seed and the step alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol

import torch
from torch import Tensor

from ..kernels.normal import normal
from ..rng import stream_seed

INITIAL = 0  # step number of the first noise; the noise of step i (from sigmas[i]) is i + 1
CORRECTOR = 2**32  # step number of the first corrections' noise, and how far apart repeats are


class NoiseSampler(Protocol):
    """Source of unit noise in k-diffusion's form."""

    def __call__(self, sigma: Tensor, sigma_to: Tensor) -> Tensor:
        """Unit Gaussian noise for the step from `sigma` to `sigma_to`, shape of the images."""
        ...


def image_seeds(seed: int, num: int, start: int = 0) -> list[int]:
    """Seeds of images start, ..., start + num - 1 of the run `seed`: num integers >= 0.

    `sampler(64, seed=0)` uses `image_seeds(0, 64)`, so `seed=image_seeds(0, 1, start=5)` makes
    image 5 of that run alone, and slices of the list split a run over processes.

    Args:
        seed: any integer.
        num: how many.
        start: index of the first image in the run.
    """
    return [stream_seed(seed, index) for index in range(start, start + num)]


def as_seeds(seed: int | Iterable[int], num: int) -> list[int]:
    """One seed per image from a run's seed or from a list: num integers.

    An integer seeds image k with `image_seeds(seed, num)[k]`; the entries of a list are used as
    they are, so an entry makes the same image at every position of every list.

    Raises:
        ValueError: for a list of another length than `num`, or entries that are not integers.
    """
    if isinstance(seed, Integral) and not isinstance(seed, bool):
        return image_seeds(int(seed), num)
    seeds = listed_seeds(seed)
    if len(seeds) != num:
        raise ValueError(f"seed has {len(seeds)} entries; need one per image, {num}")
    return seeds


def listed_seeds(seed: Any) -> list[int]:
    """Entries of a list, tuple, array or tensor of seeds as Python integers.

    Raises:
        ValueError: if it is not one-dimensional or not made of integers.
    """
    values = seed.tolist() if hasattr(seed, "tolist") else seed
    if not isinstance(values, Iterable) or isinstance(values, str | bytes):
        raise ValueError(f"seed is {seed!r}; it must be an integer or one integer per image")
    seeds = list(values)
    wrong = [s for s in seeds if not isinstance(s, Integral) or isinstance(s, bool)]
    if wrong:
        raise ValueError(f"seed has the entry {wrong[0]!r}; every entry must be an integer")
    return [int(entry) for entry in seeds]


def seed_tensor(seeds: Sequence[int] | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Seeds as `normal` takes them, (len(seeds),) int64 on the device: integers modulo 2^64.

    The copy to a GPU does not wait for it.
    """
    if isinstance(seeds, Tensor):
        return seeds.to(device, torch.int64, non_blocking=True)
    folded = [(int(seed) + 2**63) % 2**64 - 2**63 for seed in seeds]
    return torch.tensor(folded, dtype=torch.int64).to(device, non_blocking=True)


def noise_for(
    seeds: Sequence[int] | Tensor,
    step: int,
    shape: Sequence[int],
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Unit Gaussian noise (len(seeds), *shape); row i depends on seeds[i] and `step` alone.

    One counter-based kernel on the device makes all of it, the same numbers to float32 rounding on
    every device; nothing is drawn on the host and nothing waits. A float64 run sees the float32
    numbers.

    Args:
        seeds: one integer per image, or an int64 tensor of them.
        step: what the noise is for; 0 is the first noise.
        shape: shape of one image, (C, H, W).
        device: where the noise is made; None: where the seeds are, the CPU for integers.
        dtype: of the result.
    """
    if device is None:
        device = seeds.device if isinstance(seeds, Tensor) else "cpu"
    return normal(seed_tensor(seeds, device), step, tuple(shape)).to(dtype)


class SeededNoise:
    """Noise sampler (k-diffusion's form) with one stream per image.

    The step is recognised by its starting level, so calls may come in any order and repeat.

    Args:
        seeds: one integer per image, or an int64 tensor of them.
        sigmas: the levels of the run, decreasing.
        like: images (batch, C, H, W) whose shape, device and dtype the noise gets.
    """

    def __init__(
        self, seeds: Sequence[int] | Tensor, sigmas: Sequence[float], like: Tensor
    ) -> None:
        self.seeds = seed_tensor(seeds, like.device)
        self.steps = {float(sigma): INITIAL + 1 + i for i, sigma in enumerate(sigmas)}
        self.shape, self.dtype = like.shape[1:], like.dtype

    def __call__(self, sigma: Tensor, sigma_to: Tensor) -> Tensor:
        """Unit noise (batch, C, H, W) of the step that starts at `sigma`."""
        return noise_for(self.seeds, self.steps[float(sigma)], self.shape, dtype=self.dtype)

    def corrector(self, i: int, again: int) -> Tensor:
        """Unit noise (batch, C, H, W) of correction `again` = 0, 1, ... before step i."""
        return noise_for(self.seeds, CORRECTOR * (again + 1) + i, self.shape, dtype=self.dtype)


class GeneratorNoise:
    """Noise sampler that draws from one generator for the whole batch, or from one per image.

    Noise is drawn where the generators are and then brought to the images.

    Args:
        like: images whose shape, device and dtype the noise gets.
        generator: one, or a list of one per image. None is PyTorch's global one, what
            k-diffusion's hosts expect.

    Raises:
        ValueError: for a list of another length than there are images.
    """

    def __init__(
        self, like: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None = None
    ) -> None:
        self.like, self.generator = like, generator
        if isinstance(generator, Sequence) and len(generator) != len(like):
            raise ValueError(f"{len(generator)} generators for {len(like)} images; need one each")

    def __call__(self, sigma: Tensor, sigma_to: Tensor) -> Tensor:
        """Next unit noise, shape of the images."""
        if not isinstance(self.generator, Sequence):
            return self._draw(self.like, self.generator)
        pairs = zip(self.like, self.generator, strict=True)
        return torch.stack([self._draw(image, generator) for image, generator in pairs])

    def _draw(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        device = like.device if generator is None else generator.device
        noise = torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype)
        return noise.to(like.device, non_blocking=True)


class LikeNoise:
    """Noise sampler that asks a host's function, called as randn_like(images).

    Args:
        like: images whose shape, device and dtype the noise must have.
        randn_like: for example `torch.randn_like`, or the method of a host's own generator.
    """

    def __init__(self, like: Tensor, randn_like: Callable[[Tensor], Tensor]) -> None:
        self.like, self.randn_like = like, randn_like

    def __call__(self, sigma: Tensor, sigma_to: Tensor) -> Tensor:
        """Next unit noise, shape of the images.

        Raises:
            ValueError: if the function returns another shape.
        """
        noise = self.randn_like(self.like)
        if not isinstance(noise, Tensor) or noise.shape != self.like.shape:
            shape = getattr(noise, "shape", type(noise).__name__)
            raise ValueError(f"randn_like returned {shape}; need {tuple(self.like.shape)}")
        return noise.to(self.like)


@dataclass(frozen=True)
class HostNoise:
    """A host's source of noise in place of seeds: generators, or its own function."""

    generator: torch.Generator | Sequence[torch.Generator] | None = None  # one, or one per image
    randn_like: Callable[[Tensor], Tensor] | None = None  # called as randn_like(images)

    def sampler(self, like: Tensor, start: int, count: int) -> NoiseSampler:
        """Noise sampler of the images start, ..., start + count - 1 of the run.

        `like` are their states, and then those of padding, which gets the last image's noise.
        """
        images = like[:count]
        own: NoiseSampler
        if self.randn_like is not None:
            own = LikeNoise(images, self.randn_like)
        elif isinstance(self.generator, Sequence):
            own = GeneratorNoise(images, self.generator[start : start + count])
        else:
            own = GeneratorNoise(images, self.generator)
        if count == len(like):
            return own
        rows = torch.arange(len(like), device=like.device).clamp(max=count - 1)
        return lambda sigma, sigma_to: own(sigma, sigma_to)[rows]

    def first(self, like: Tensor) -> Tensor:
        """Unit noise of all images at once, the first that is drawn."""
        level = torch.zeros((), dtype=torch.float64)
        return self.sampler(like, 0, len(like))(level, level)
