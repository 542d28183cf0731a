"""How far the two levels t > r of a consistency pair are apart, and how that shrinks in training.

Legend: a is the stage, 0 at the beginning; q, k and b are the constants of Geng et al. 2024 (ECT,
arXiv:2406.14548), Section 3.2. The gap t - r is t q^-(a+1) n(t), so r = 0 wherever that is t or
more: the pair is then a denoising pair, and training begins as diffusion training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .registry import Registry


class Gap(Protocol):
    """A mapping r(t, a) and its stage counter."""

    def stage(self, progress: float) -> float:
        """Stage a at a position of training."""
        ...

    def delta(self, t: Tensor, stage: float) -> Tensor:
        """Wanted gap, shape of `t`; may be larger than t."""
        ...

    def r(self, t: Tensor, stage: float) -> Tensor:
        """Lower level of the pair, shape of `t`."""
        ...


@dataclass(frozen=True)
class _Stages:
    """What all mappings share: the stage counter and the factor q^-(a+1)."""

    q: float = 2.0  # the gap falls by this factor from stage to stage, > 1
    stages: int = 8  # stages of equal length in a run, >= 1; the last factor is q^-stages
    smooth: bool = False  # the stage moves with every step instead of in whole numbers
    ratio_limit: float = 1.0  # largest r/t at high levels, in (0, 1]
    floor: float = 0.0  # smallest r, >= 0

    def __post_init__(self) -> None:
        if not self.q > 1:
            raise ValueError(f"q must be above 1, got {self.q}")
        if self.stages < 1:
            raise ValueError(f"stages must be at least 1, got {self.stages}")
        if not 0 < self.ratio_limit <= 1:
            raise ValueError(f"ratio_limit must be in (0, 1], got {self.ratio_limit}")
        if not self.floor >= 0:
            raise ValueError(f"floor must not be negative, got {self.floor}")

    def stage(self, progress: float) -> float:
        """Stage a at `progress` in [0, 1]: 0, 1, .., stages - 1, or a real number if `smooth`.

        Raises:
            ValueError: for another progress.
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must be in [0, 1], got {progress}")
        if self.smooth:
            return progress * (self.stages - 1)
        # A quotient of step numbers may lie a rounding error below the stage that it begins.
        return float(min(math.floor(progress * self.stages + 1e-9), self.stages - 1))

    def factor(self, stage: float) -> float:
        """Gap per t where n = 1: q^-(a+1), but not less than `ratio_limit` allows."""
        return max(self.q ** -(stage + 1), 1 - self.ratio_limit)

    def slope(self, t: Tensor) -> Tensor:
        """n(t), shape of `t`."""
        raise NotImplementedError

    def delta(self, t: Tensor, stage: float) -> Tensor:
        """Wanted gap t q^-(a+1) n(t), shape of `t`; may be larger than t."""
        return t * (self.factor(stage) * self.slope(t))

    def r(self, t: Tensor, stage: float) -> Tensor:
        """Lower level max(floor, t - delta), shape of `t`, or 0 for t <= floor.

        Give float64 levels.
        """
        r = (t - self.delta(t, stage)).clamp(min=self.floor)
        return torch.where(r < t, r, torch.zeros_like(r))


@dataclass(frozen=True)
class SigmoidGap(_Stages):
    """n(t) = 1 + k sigmoid(-b t): smaller levels get larger gaps.

    The published runs: CIFAR-10 q=2, 8 stages; ImageNet-64 q=4, 4 stages; in one hour q=256, one
    stage: all end at 1/256. Their counter moves at the end of a reporting interval, of which the
    first is one step long; here stages are equal shares of the run.

    TCM caps the ratio r/t (`ratio_limit` 0.999 CIFAR-10, 0.9961 ImageNet-64) and floors r at 1e-6.

    Source: Geng et al. 2024 (ECT), Section 3.2 and its published code; Lee et al. 2024 (TCM).
    """

    k: float = 8.0  # n falls from 1 + k/2 at t = 0 to 1, >= 0
    b: float = 1.0  # how fast, per unit of t, > 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.k >= 0 and self.b > 0):
            raise ValueError(f"need k >= 0 and b > 0, got k={self.k}, b={self.b}")

    def slope(self, t: Tensor) -> Tensor:
        """n(t), shape of `t`."""
        return 1 + self.k * torch.sigmoid(-self.b * t)


@dataclass(frozen=True)
class ConstantGap(_Stages):
    """n(t) = 1: the same ratio r/t at all levels. Source: ECT's published code, `const`."""

    def slope(self, t: Tensor) -> Tensor:
        """1, shape of `t`."""
        return torch.ones_like(t)


AnyGap = SigmoidGap | ConstantGap
GAPS = Registry(
    "gap",
    {
        "sigmoid": "ctm_fast.gaps:SigmoidGap",
        "constant": "ctm_fast.gaps:ConstantGap",
    },
)
