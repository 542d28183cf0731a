"""Noise levels of a diffusers schedule: their times, and which ones a run visits.

diffusers' consistency pipelines tell a network t = 250 ln(sigma); everything else here is in sigma.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ..sampler.step_tables import SAME_LEVEL, check_gamma, checked_sigmas, gamma_landings
from ..sigmas import RHO, SIGMA_MAX, SIGMA_MIN, karras_sigmas

SPACINGS = ("leading", "linspace")
_TINY = 1e-44  # as the published networks were trained; keeps the time of 0 finite


def sigma_to_time(sigma: float) -> float:
    """Time that a network is told for a noise level: 250 ln(sigma).

    Source: openai/consistency_models, `rescaled_t`.
    """
    return 250 * math.log(sigma + _TINY)


def times_of(sigmas: Any) -> Any:
    """Times of a number (a float), or of an array or tensor (float64, its own type and shape)."""
    if isinstance(sigmas, Tensor) and sigmas.ndim:
        times = [sigma_to_time(sigma) for sigma in sigmas.double().flatten().tolist()]
        return torch.tensor(times, dtype=torch.float64).reshape(sigmas.shape)
    if getattr(sigmas, "ndim", 0):
        return times_of(torch.as_tensor(sigmas)).numpy()
    return sigma_to_time(float(sigmas))


def time_to_sigma(time: Tensor) -> Tensor:
    """Noise level of a time, exp(t / 250), shape of `time`; float64 where the device has it."""
    wide = torch.float32 if time.device.type == "mps" else torch.float64
    return (time.to(wide) / 250).exp()


@dataclass(frozen=True)
class Grid:
    """Karras grid that timestep indices count in; index 0 is sigma_max.

    Raises:
        ValueError: unless num_scales >= 2, 0 < sigma_min < sigma_max and rho > 0.
    """

    num_scales: int = 40  # levels, >= 2
    sigma_min: float = SIGMA_MIN  # smallest level, > 0
    sigma_max: float = SIGMA_MAX  # largest level
    rho: float = RHO  # spacing, > 0

    def __post_init__(self) -> None:
        self.levels(self.num_scales)

    def levels(self, num: int) -> list[float]:
        """`num` Karras levels from sigma_max down to sigma_min."""
        return karras_sigmas(num, self.sigma_min, self.sigma_max, self.rho).tolist()

    def steps(self, num: int, spacing: str) -> list[float]:
        """Levels of a run of `num` steps: num + 1, ending at sigma_min.

        Args:
            num: >= 1; at most num_scales for "leading".
            spacing: "leading" takes every (num_scales // num)-th level of the grid, as the
                consistency models' scheduler does; "linspace" spreads num + 1 Karras levels evenly.

        Raises:
            ValueError: for a number that is not an integer in that range.
        """
        if isinstance(num, bool) or not isinstance(num, Integral) or num < 1:
            raise ValueError(f"num_inference_steps is {num!r}; it must be an integer, at least 1")
        if spacing == "linspace":
            return self.levels(int(num) + 1)
        if num > self.num_scales:
            raise ValueError(
                f"num_inference_steps is {num}; a schedule of num_train_timesteps="
                f"{self.num_scales} has at most as many steps"
            )
        stride = self.num_scales // int(num)
        return [*self.levels(self.num_scales)[: int(num) * stride : stride], self.sigma_min]

    def indexed(self, indices: Any) -> list[float]:
        """Levels of the steps that start at these grid indices, ending at sigma_min.

        Args:
            indices: integers as the consistency pipeline takes them, descending; the largest is
                the smallest level's, so [22, 0] begins at sigma_max. A list, array or tensor.

        Raises:
            ValueError: unless they are integers, descend and lie in [0, num_scales).
        """
        chosen = indices.tolist() if hasattr(indices, "tolist") else list(indices)
        wrong = [i for i in chosen if isinstance(i, bool) or not isinstance(i, Integral)]
        if wrong or not chosen:
            raise ValueError(
                f"timesteps is {chosen}; it must hold integers, indices of the grid of "
                f"{self.num_scales} levels (give noise levels as sigmas=)"
            )
        if any(after >= before for before, after in itertools.pairwise(chosen)):
            raise ValueError(f"timesteps must be in descending order, got {chosen}")
        if chosen[0] >= self.num_scales or chosen[-1] < 0:
            raise ValueError(
                f"timesteps must lie below num_train_timesteps={self.num_scales} and not be "
                f"negative, got {chosen}"
            )
        grid = self.levels(self.num_scales)
        return [*(grid[i] for i in reversed(chosen)), self.sigma_min]

    def given(self, sigmas: Iterable[float] | Tensor) -> list[float]:
        """The caller's own levels, ending at sigma_min, which is appended where it is missing.

        Args:
            sigmas: strictly decreasing, in [sigma_min, sigma_max]; a final 0 is left out.

        Raises:
            ValueError: if they are not.
        """
        values: Any = sigmas.tolist() if hasattr(sigmas, "tolist") else list(sigmas)
        if values and values[-1] == 0:
            values = values[:-1]
        if values and not math.isclose(values[-1], self.sigma_min, rel_tol=SAME_LEVEL):
            values = [*values, self.sigma_min]
        levels = checked_sigmas(values)
        for i, level in enumerate(levels):
            self.checked(f"sigmas[{i}]", level)
        return [*levels[:-1], self.sigma_min]

    def checked(self, name: str, sigma: float) -> float:
        """The level `sigma`.

        Raises:
            ValueError: if it is outside [sigma_min, sigma_max].
        """
        low, high = self.sigma_min, self.sigma_max
        if not low * (1 - SAME_LEVEL) <= sigma <= high * (1 + SAME_LEVEL):
            raise ValueError(f"{name} is the noise level {sigma:.6g}, outside [{low}, {high}]")
        return sigma


@dataclass(frozen=True)
class Schedule:
    """Levels that a run visits and where its jumps land.

    Raises:
        ValueError: unless 0 <= gamma <= 1.
    """

    levels: Sequence[float]  # (steps + 1), decreasing, ending at sigma_min
    gamma: float = 0.0  # share of noise that is drawn anew per step, in [0, 1]

    def __post_init__(self) -> None:
        check_gamma(self.gamma)

    @property
    def landings(self) -> list[float]:
        """Level that each step's jump lands on, (steps)."""
        return gamma_landings(list(self.levels), self.gamma)

    def position(self, sigma: float) -> int:
        """Index of the step that starts at this level, or the number of levels above it."""
        rising = [-level for level in self.levels]
        return bisect_left(rising, -sigma * (1 + SAME_LEVEL))

    def following(self, sigma: float) -> tuple[float, float]:
        """(landing, next level) of a step that starts at `sigma`, on the schedule or off it.

        The next level is the first one below `sigma`, or the last one of the schedule.
        """
        i = self.position(sigma * (1 - 3 * SAME_LEVEL))
        following = self.levels[min(i, len(self.levels) - 1)]
        return gamma_landings([sigma, following, self.levels[-1]], self.gamma)[0], following

    def std(self, landing: float, following: float) -> float:
        """Standard deviation of the noise that lifts a landing to the next level; 0 for gamma=0."""
        if self.gamma == 0 or landing >= following:
            return 0.0
        return math.sqrt((following - landing) * (following + landing))

    def snapped(self, sigma: float) -> float:
        """The schedule's own level or landing where `sigma` is one up to rounding."""
        known = (*self.levels, *self.landings)
        return next((k for k in known if math.isclose(k, sigma, rel_tol=SAME_LEVEL)), sigma)


def check_choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; choose from {allowed}")


def resolved_gamma(kind: str | None, gamma: float | None) -> float:
    """gamma, by default 0 for kind "trajectory" and 1 otherwise.

    Raises:
        ValueError: for kind "consistency" with another gamma than 1.
    """
    if gamma is None:
        return 0.0 if kind == "trajectory" else 1.0
    if kind == "consistency" and gamma != 1:
        raise ValueError(
            f"gamma is {gamma}; a consistency network lands on sigma_min only, which is gamma=1"
        )
    return float(gamma)


def level_of(
    name: str, time: Any, own: Tensor, levels: Sequence[float], schedule: Schedule
) -> float:
    """Noise level that a host's timestep stands for, a Python number.

    An entry of the scheduler's own tensor is recognised by where it lies in memory, so that no
    device is waited for; any other time is read.

    Args:
        name: of the argument, for messages.
        time: number or tensor with one entry, floating.
        own: the scheduler's times, one per entry of `levels`.
        levels: noise levels of `own`.
        schedule: whose levels a read time is snapped to.

    Raises:
        ValueError: for an integer, or a tensor of more or less than one entry.
    """
    whole = isinstance(time, Integral)
    if isinstance(time, Tensor):
        whole = not time.is_floating_point()
        if time.numel() != 1:
            raise ValueError(f"{name} has {time.numel()} entries; all images share one time")
        same = time.dtype == own.dtype and time.device == own.device
        if same and time.untyped_storage().data_ptr() == own.untyped_storage().data_ptr():
            return float(levels[int(time.storage_offset())])
    if whole:
        raise ValueError(
            f"{name} is the integer {time!r}; pass an entry of scheduler.timesteps, "
            "t = 250 ln(sigma), not its index"
        )
    try:
        number = float(time)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {time!r}; it must be a number") from None
    return schedule.snapped(math.exp(number / 250))
