"""One random stream per image: noise is a function of the image's seed and the step alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, Protocol

import torch
from torch import Tensor

from ..rng import stream

INITIAL = 0  # step number of the first noise; the noise of step i (from sigmas[i]) is i + 1


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
    return [stream(seed, index).initial_seed() for index in range(start, start + num)]


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


def noise_for(
    seeds: Sequence[int],
    step: int,
    shape: Sequence[int],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    draw_on: torch.device | str = "cpu",
) -> Tensor:
    """Unit Gaussian noise (len(seeds), *shape); row i depends on seeds[i] and `step` alone.

    Numbers are drawn in float32 and then converted, so a float64 run sees the same noise. By
    default they are drawn on the CPU into one pinned buffer and copied without waiting for the
    device; all devices then make the same images. Nothing here synchronises.

    Args:
        seeds: one integer per image.
        step: what the noise is for; 0 is the first noise.
        shape: shape of one image, (C, H, W).
        device: where the result lies.
        dtype: of the result.
        draw_on: where the numbers are drawn. A GPU draws with one launch per image, and its
            numbers differ from the CPU's.
    """
    device, draw_on = torch.device(device), torch.device(draw_on)
    pinned = draw_on.type == "cpu" and device.type == "cuda"
    noise = torch.empty(len(seeds), *shape, device=draw_on, pin_memory=pinned)
    for row, seed in zip(noise, seeds, strict=True):
        row.normal_(generator=stream(seed, step, device=draw_on))
    return noise.to(device, non_blocking=True).to(dtype)


class SeededNoise:
    """Noise sampler (k-diffusion's form) with one stream per image.

    The step is recognised by its starting level, so calls may come in any order and repeat.

    Args:
        seeds: one integer per image.
        sigmas: the levels of the run, decreasing.
        like: images (batch, C, H, W) whose shape, device and dtype the noise gets.
        draw_on: as in `noise_for`.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        sigmas: Sequence[float],
        like: Tensor,
        draw_on: torch.device | str = "cpu",
    ) -> None:
        self.seeds = list(seeds)
        self.steps = {float(sigma): INITIAL + 1 + i for i, sigma in enumerate(sigmas)}
        self.shape, self.device, self.dtype = like.shape[1:], like.device, like.dtype
        self.draw_on = draw_on

    def __call__(self, sigma: Tensor, sigma_to: Tensor) -> Tensor:
        """Unit noise (batch, C, H, W) of the step that starts at `sigma`."""
        step = self.steps[float(sigma)]
        return noise_for(self.seeds, step, self.shape, self.device, self.dtype, self.draw_on)


class GeneratorNoise:
    """Noise sampler that draws from one generator for the whole batch.

    Args:
        like: images whose shape, device and dtype the noise gets.
        generator: on their device. None is PyTorch's global one, what k-diffusion's hosts expect.
    """

    def __init__(self, like: Tensor, generator: torch.Generator | None = None) -> None:
        self.like, self.generator = like, generator

    def __call__(self, sigma: Tensor, sigma_to: Tensor) -> Tensor:
        """Next unit noise, shape of the images."""
        like = self.like
        return torch.randn(
            like.shape, generator=self.generator, device=like.device, dtype=like.dtype
        )
