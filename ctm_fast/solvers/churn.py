"""EDM's churn: raise the noise level before a step. Karras et al. 2022, Algorithm 2."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Noise = Callable[[int], Tensor]


@dataclass(frozen=True)
class Churn:
    """What `solve(..., perturb=...)` calls before each step.

    At levels in [S_min, S_max] the noise level grows by the factor 1 + min(S_churn / num_steps,
    sqrt(2) - 1), with fresh noise of standard deviation S_noise times what is missing. Elsewhere,
    and with S_churn = 0, nothing is drawn and nothing changes.
    """

    noise: Noise  # noise(i): unit normal like x, for step i; called only where noise is added
    num_steps: int  # steps of the whole solve, including a last one to 0
    S_churn: float = 40.0  # total amount of churn, >= 0
    S_min: float = 0.05  # lowest level with churn
    S_max: float = 50.0  # highest level with churn
    S_noise: float = 1.003  # standard deviation of the fresh noise

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.S_churn < 0 or self.S_min > self.S_max:
            raise ValueError(
                f"need num_steps >= 1, S_churn >= 0 and S_min <= S_max, got "
                f"num_steps={self.num_steps}, S_churn={self.S_churn}, S_min={self.S_min}, "
                f"S_max={self.S_max}"
            )

    def sigma_hat(self, sigma: float) -> float:
        """Level to which `sigma` is raised."""
        if not self.S_min <= sigma <= self.S_max:
            return sigma
        return sigma * (1 + min(self.S_churn / self.num_steps, math.sqrt(2) - 1))

    def __call__(self, i: int, x: Tensor, sigma: float) -> tuple[Tensor, float]:
        """(x, sigma) with more noise, for step i; x (batch, ...) keeps its dtype."""
        raised = self.sigma_hat(sigma)
        if raised == sigma:
            return x, sigma
        noise = self.noise(i).to(device=x.device, dtype=x.dtype)
        return x + math.sqrt(raised**2 - sigma**2) * self.S_noise * noise, raised
