"""The three noise levels t >= u >= s of a CTM step, as indices of a grid. Kim et al. 2024 (CTM).

Legend: N is the grid size, index 0 is sigma_max; n is the number of teacher steps from t to u, at
most M; i, i + n and k are the indices of t, u and s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Indices(NamedTuple):
    """Grid indices of one optimizer step; `num_steps` is an int when all images share it."""

    num_steps: int | Tensor  # teacher steps n, int or (batch,) int64
    t_index: Tensor  # (batch,) int64, where the trajectory starts
    u_index: Tensor  # (batch,) int64, t_index + num_steps, where the teacher arrives
    s_index: Tensor  # (batch,) int64, u_index <= s_index <= num_scales - 1, where both jumps end


class Positions(NamedTuple):
    """Real positions on the Karras ramp, 0 is sigma_max and 1 is sigma_min."""

    t: Tensor  # (batch,) float64
    u: Tensor  # (batch,) float64, >= t
    s: Tensor  # (batch,) float64, >= u


def weighted(max_steps: int, power: float) -> Tensor:
    """Weights n^power of n = 1..max_steps, float64; the published choice, with power 1."""
    return torch.arange(1, max_steps + 1, dtype=torch.float64) ** power


def uniform(max_steps: int, power: float) -> Tensor:
    """Equal weights of n = 1..max_steps, float64; `power` is not used."""
    return torch.ones(max_steps, dtype=torch.float64)


def fixed(max_steps: int, power: float) -> Tensor:
    """All weight on n = max_steps, float64; `power` is not used."""
    return torch.nn.functional.one_hot(torch.tensor(max_steps - 1), max_steps).double()


def uniform_destination(first: Tensor, num_scales: int, generator: torch.Generator) -> Tensor:
    """Index uniform over {first, .., num_scales - 1}, shape of `first`."""
    return first + _below(num_scales - first, generator)


def smallest_destination(first: Tensor, num_scales: int, generator: torch.Generator) -> Tensor:
    """num_scales - 1 (sigma_min) for every image, as in a consistency model."""
    return torch.full_like(first, num_scales - 1)


STEP_COUNTS: dict[str, Callable[[int, float], Tensor]] = {
    "weighted": weighted,
    "uniform": uniform,
    "fixed": fixed,
}
DESTINATIONS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "uniform": uniform_destination,
    "smallest": smallest_destination,
}


@dataclass(frozen=True)
class TrajectoryLevels:
    """Draws (n, t, u, s): n by its weights, t uniform over {0..N-n-1}, s by `destination`.

    Raises:
        ValueError: for unknown names or max_steps < 1.

    Source: Kim et al. 2024, Section 3.2, with the distributions of its published code
    (`heun_step_strategy`, `sample_s_strategy`).
    """

    max_steps: int | None = None  # largest number of teacher steps M; None: num_scales - 1
    step_count: str = "weighted"  # weighted: P(n) ~ n^power | uniform | fixed: n = max_steps
    power: float = 1.0  # of step_count=weighted
    destination: str = "uniform"  # uniform over {u..sigma_min} | smallest: always sigma_min
    per_sample: bool = False  # one n per image instead of one per optimizer step

    def __post_init__(self) -> None:
        _check("step_count", self.step_count, STEP_COUNTS)
        _check("destination", self.destination, DESTINATIONS)
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {self.max_steps}")

    def check(self, num_scales: int) -> int:
        """Largest number of teacher steps on a grid of `num_scales` levels.

        Raises:
            ValueError: if the grid is too short for it.
        """
        last = num_scales - 1
        if last < 1 or (self.max_steps or 1) > last:
            raise ValueError(
                f"need num_scales >= 2 and max_steps <= num_scales - 1, got "
                f"num_scales={num_scales}, max_steps={self.max_steps}"
            )
        return last if self.max_steps is None else self.max_steps

    def sample(self, batch_size: int, num_scales: int, generator: torch.Generator) -> Indices:
        """Indices for the whole batch of an optimizer step, on the generator's device.

        With one n for all images it is read back as an int, so draw on the CPU.
        """
        weights = self.count_probabilities(num_scales).to(generator.device)
        draws = batch_size if self.per_sample else 1
        n = 1 + torch.multinomial(weights, draws, replacement=True, generator=generator)
        t = _below((num_scales - n).expand(batch_size), generator)
        s = DESTINATIONS[self.destination](t + n, num_scales, generator)
        return Indices(n if self.per_sample else int(n), t, t + n, s)

    def count_probabilities(self, num_scales: int) -> Tensor:
        """P(n) for n = 1..max_steps, (max_steps,) float64."""
        weights = STEP_COUNTS[self.step_count](self.check(num_scales), self.power)
        return weights / weights.sum()

    def mean_count(self, num_scales: int) -> float:
        """Expected number of teacher steps; each costs two network calls."""
        probabilities = self.count_probabilities(num_scales)
        n = torch.arange(1, len(probabilities) + 1, dtype=torch.float64)
        return float((n * probabilities).sum())

    def joint_probabilities(self, num_scales: int, num_steps: int) -> Tensor:
        """P(t index, s index | n), (num_scales, num_scales) float64.

        Raises:
            ValueError: for a number of steps that is never drawn.
        """
        N, n = num_scales, num_steps
        if not 1 <= n <= self.check(N):
            raise ValueError(f"num_steps must be in [1, {self.check(N)}], got {n}")
        joint = torch.zeros(N, N, dtype=torch.float64)
        for i in range(N - n):
            first = N - 1 if self.destination == "smallest" else i + n
            joint[i, first:] = 1 / (N - n) / (N - first)
        return joint

    def marginal_probabilities(self, num_scales: int) -> tuple[Tensor, Tensor, Tensor]:
        """P(t index), P(u index), P(s index), each (num_scales,) float64."""
        t, u, s = torch.zeros(3, num_scales, dtype=torch.float64)
        for n, p in enumerate(self.count_probabilities(num_scales).tolist(), start=1):
            joint = p * self.joint_probabilities(num_scales, n)
            t += joint.sum(1)
            u += joint.sum(1).roll(n)
            s += joint.sum(0)
        return t, u, s


@dataclass(frozen=True)
class TrajectoryPositions:
    """Draws real positions (t, u, s): the gap u - t ~ U[0, max_gap), then t, then s uniform.

    For objectives whose target at u needs no teacher solve: a solver walks a grid by whole
    steps and refuses real positions.

    Source: Kim et al. 2024, published code, `time_continuous` (max_gap = M / N).
    """

    max_gap: float = 17 / 18  # largest u - t, in (0, 1]

    def __post_init__(self) -> None:
        if not 0 < self.max_gap <= 1:
            raise ValueError(f"max_gap must be in (0, 1], got {self.max_gap}")

    def sample(self, batch_size: int, generator: torch.Generator) -> Positions:
        """Positions for `ctm_fast.sigmas.karras_sigma`; one gap for the whole batch."""
        gap = self.max_gap * _uniform(1, generator)
        t = (1 - gap) * _uniform(batch_size, generator)
        u = t + gap
        return Positions(t, u, u + (1 - u) * _uniform(batch_size, generator))


def _uniform(size: int, generator: torch.Generator) -> Tensor:
    return torch.rand(size, generator=generator, dtype=torch.float64, device=generator.device)


def _below(count: Tensor, generator: torch.Generator) -> Tensor:
    return (_uniform(len(count), generator) * count).long()


def _check(field: str, value: str, table: dict[str, Callable[..., Tensor]]) -> None:
    if value not in table:
        raise ValueError(f"unknown {field} {value!r}; choose from {sorted(table)}")
