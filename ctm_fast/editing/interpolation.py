"""`Interpolator`: images between images, by spherical interpolation of their noise."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ..sampler import Sampler, noise_for
from ..sampler.arguments import Request
from ..sampler.jumps import Callback
from ..sampler.seeding import INITIAL, SeededNoise, seed_tensor
from .encoder import one_state
from .running import Labels, in_batches, ordered, sampled

PARALLEL = 1e-6  # sine of an angle at which the points are mixed in a straight line


def slerp(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Points on the arc from `first` to `second`, (len(weights), ...).

    sin((1 - w) a)/sin(a) first + sin(w a)/sin(a) second with the angle a between them; points in
    the same direction are mixed in a straight line. At weight 0 it is `first` and at 1 `second`,
    bit by bit. Mixtures of unit Gaussian noise look like unit Gaussian noise.

    Args:
        first: a point of any shape.
        second: another one.
        weights: (frames,) in [0, 1].

    Raises:
        ValueError: for points in opposite directions, between which there are many arcs.

    Source: Shoemake 1985; Song et al. 2021 (DDIM), Appendix D.5.
    """
    angle = _angle(first, second)
    if angle > math.pi / 2 and torch.sin(angle) <= PARALLEL:
        raise ValueError("the points lie in opposite directions; there is no shortest arc")
    return _arc(first, second, weights)


def _angle(first: Tensor, second: Tensor) -> Tensor:
    """Angle between two points, () float64; 0 if one of them is 0."""
    one, other = first.flatten().double(), second.flatten().double()
    cosine = one @ other / (one.norm() * other.norm())
    return cosine.nan_to_num(1.0).clamp(-1, 1).acos()


def _arc(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """`slerp` without its check, which waits for the device."""
    angle, w = _angle(first, second), weights.double().reshape(-1, *[1] * first.ndim)
    w = w.to(first.device)
    sine = torch.sin(angle)
    arc, straight = [torch.sin((1 - w) * angle) / sine, torch.sin(w * angle) / sine], [1 - w, w]
    shares = [torch.where(sine > PARALLEL, a, b) for a, b in zip(arc, straight, strict=True)]
    mixed = shares[0].to(first.dtype) * first + shares[1].to(first.dtype) * second
    mixed = torch.where(w == 0, first, mixed)
    return torch.where(w == 1, second, mixed)


@dataclass(frozen=True)
class Interpolator:
    """A path of images between two: `interpolator(3, 7, frames=8)`.

    Args:
        sampler: says how, with any method. Where it adds noise, that of the steps is mixed as the
            first noise is.
    """

    sampler: Sampler

    @property
    def nfe(self) -> int:
        """Network calls per frame."""
        return self.sampler.nfe

    def __call__(
        self,
        first: int | Tensor,
        second: int | Tensor,
        frames: int = 8,
        *,
        labels: Labels = None,
        seed: int = 0,
        callback: Callback | None = None,
    ) -> Tensor:
        """Images (frames, C, H, W), in [-1, 1] if the sampler clips.

        The first and the last one are those that the sampler makes of the same seeds or noise.

        Args:
            first: seed of one image, as in `sampler(seed=[first])`; or its first state, (C, H, W)
                or (1, C, H, W), as `Encoder` makes it and `sampler(noise=...)` takes it.
            second: another one, of the same sort.
            frames: images on the path with both ends, >= 2.
            labels: (frames,) integers, or one for all; required by a conditional model.
            seed: of the noise of the steps, the same for every frame, where first states are
                given; as in `sampler(seed=[seed], noise=first)`.
            callback: as of `Sampler.__call__`.

        Raises:
            ValueError: for fewer frames, a seed beside a first state, or bad noise or labels.
        """
        sampler = self.sampler
        if isinstance(frames, bool) or not isinstance(frames, Integral) or frames < 2:
            raise ValueError(f"frames is {frames!r}; it must be an integer, at least 2")
        ends = _Ends(sampler, first, second, seed, ordered(sampler, int(frames), labels, seed))
        weights = torch.linspace(0, 1, int(frames), dtype=torch.float64)

        def make(model: Any, rows: slice, seeds: Tensor, told: dict[str, Tensor]) -> Tensor:
            noise = ends.noises(weights[rows], seeds.device)
            return sampled(sampler, model, noise.state, sampler.sigmas, told, callback, noise)

        images = in_batches(sampler, ends.order, make)
        return images.clamp_(-1, 1) if sampler.clip else images


class _Ends:
    """First states and seeds of both ends, checked."""

    def __init__(
        self, sampler: Sampler, first: Any, second: Any, seed: int, order: Request
    ) -> None:
        self.sampler, self.order = sampler, order
        self.states: tuple[Tensor, ...] = ()
        whole = [isinstance(e, Integral) and not isinstance(e, bool) for e in (first, second)]
        if any(whole) != all(whole):
            raise ValueError("one end is a seed and the other is not; need two of one sort")
        self.seeds = (int(first), int(second)) if all(whole) else (int(seed), int(seed))
        if not all(whole):
            given = {"first": first, "second": second}
            self.states = tuple(one_state(e, order.shape, name) for name, e in given.items())

    def noises(self, weights: Tensor, device: torch.device) -> _Noises:
        sampler, seeds = self.sampler, seed_tensor(self.seeds, device)
        if self.states:
            scale = sampler.sigmas[0] if sampler.latents == "unit" else 1
            states = [state.to(device, sampler.state_dtype)[0] * scale for state in self.states]
        else:
            noise = noise_for(seeds, INITIAL, self.order.shape, dtype=sampler.state_dtype)
            states = list(noise * sampler.sigmas[0])
        return _Noises(seeds, sampler.sigmas, weights.to(device), states)


class _Noises(SeededNoise):
    """First state and noise sampler of some frames."""

    def __init__(
        self, seeds: Tensor, sigmas: Iterable[float], weights: Tensor, ends: list[Tensor]
    ) -> None:
        super().__init__(seeds, list(sigmas), torch.stack(ends))
        self.weights, self.state = weights, slerp(ends[0], ends[1], weights)

    def __call__(self, sigma: Tensor, sigma_to: Tensor) -> Tensor:
        first, second = super().__call__(sigma, sigma_to)
        return _arc(first, second, self.weights)

    def corrector(self, i: int, again: int) -> Tensor:
        """Unit noise of Langevin corrections, (frames, C, H, W)."""
        first, second = super().corrector(i, again)
        return _arc(first, second, self.weights)
