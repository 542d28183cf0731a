"""How fine the grid of noise levels is, and how slow the target, as training goes on.

Legend: N is the number of levels, k / K is `progress`, s0 and s1 are the first and the last number
of intervals, mu0 and mu are decays of the target's average.
Song et al. 2023 (CM, arXiv:2303.01469); Song & Dhariwal 2023 (iCT, arXiv:2310.14189).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from .registry import Registry

COUNTS = ("intervals", "levels")


class Scales(Protocol):
    """Number of noise levels as a function of the training position."""

    def num_scales(self, progress: float) -> int:
        """Levels of the grid, >= 2, at `progress` in [0, 1]."""
        ...

    def target_decay(self, progress: float, decay: float, count: str) -> float:
        """Decay mu(k) of the target's average; see `scaled_decay`."""
        ...


def scaled_decay(num_scales: int, start: int, decay: float, count: str = "intervals") -> float:
    """Decay exp(s0 ln(mu0) / N') of the target's average, in [0, 1).

    Args:
        num_scales: levels N of the grid, >= 2.
        start: s0, >= 1.
        decay: mu0 in [0, 1); 0 gives 0.
        count: N' is "intervals", N - 1, as in both published codes, or "levels", N, as in the
            paper.

    Raises:
        ValueError: for an unknown count.

    Source: Song et al. 2023, Section 6; N' = N - 1 in openai/consistency_models and in
    openai/consistency_models_cifar10.
    """
    if count not in COUNTS:
        raise ValueError(f"unknown count {count!r}; choose from {list(COUNTS)}")
    if decay == 0:
        return 0.0
    return math.exp(start * math.log(decay) / (num_scales - (count == "intervals")))


@dataclass(frozen=True)
class FixedScales:
    """The same grid at every step, and the same decay of the target."""

    levels: int = 18  # N; 18 CIFAR-10, 40 ImageNet-64 (published code of CM)

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise ValueError(f"a grid needs at least 2 levels, got levels={self.levels}")

    def num_scales(self, progress: float) -> int:
        """`levels`."""
        return self.levels

    def target_decay(self, progress: float, decay: float, count: str) -> float:
        """`decay` as it is."""
        return decay


@dataclass(frozen=True)
class SquareRootScales:
    """N = ceil(sqrt((k/K) ((s1 + 1)^2 - s0^2) + s0^2) - 1) + 1: s0 levels first, s1 + 1 last.

    Source: Song et al. 2023, Section 6, and its published code.
    """

    start: int = 2  # s0
    end: int = 150  # s1; 150 CIFAR-10 and LSUN, 200 ImageNet-64

    def __post_init__(self) -> None:
        _check_ends(2, self.start, self.end)

    def num_scales(self, progress: float) -> int:
        """Levels at `progress` in [0, 1]."""
        first, last = self.start**2, (self.end + 1) ** 2
        return math.ceil(math.sqrt(progress * (last - first) + first) - 1) + 1

    def target_decay(self, progress: float, decay: float, count: str) -> float:
        """mu(k), which grows with N; see `scaled_decay`."""
        return scaled_decay(self.num_scales(progress), self.start, decay, count)


@dataclass(frozen=True)
class DoublingScales:
    """N = min(s0 2^floor(k / K'), s1) + 1, K' = K / (log2(s1 / s0) + 1), s1 / s0 rounded down.

    The paper rounds K' down too; here the stages divide the run evenly.
    Source: Song & Dhariwal 2023, Section 3.4.
    """

    start: int = 10  # s0
    end: int = 1280  # s1

    def __post_init__(self) -> None:
        _check_ends(1, self.start, self.end)

    @property
    def stages(self) -> float:
        """How often the grid could be refined in one run, plus one."""
        return math.log2(self.end // self.start) + 1

    def num_scales(self, progress: float) -> int:
        """Levels at `progress` in [0, 1]."""
        return min(self.start * 2 ** math.floor(progress * self.stages), self.end) + 1

    def target_decay(self, progress: float, decay: float, count: str) -> float:
        """mu(k), which grows with N; see `scaled_decay`."""
        return scaled_decay(self.num_scales(progress), self.start, decay, count)


def _check_ends(least: int, start: int, end: int) -> None:
    if not least <= start <= end:
        raise ValueError(f"need {least} <= start <= end, got start={start}, end={end}")


AnyScales = FixedScales | SquareRootScales | DoublingScales
SCALES = Registry(
    "number of noise levels",
    {
        "fixed": "ctm_fast.curricula:FixedScales",
        "square_root": "ctm_fast.curricula:SquareRootScales",
        "doubling": "ctm_fast.curricula:DoublingScales",
    },
)
