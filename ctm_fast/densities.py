"""Random training noise levels. Karras et al. 2022 (EDM); Kim et al. 2024 (CTM)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .registry import Registry
from .sigmas import RHO, SIGMA_MAX, SIGMA_MIN, check_sigma_range, karras_sigma


class Density(Protocol):
    """Distribution of the noise level of a training image."""

    def sample(
        self, batch_size: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Noise levels, (batch_size,) of `dtype`, on the generator's device.

        `batch_size` is that of the whole optimizer step: draw once, then slice. Draws are made in
        float64, so `dtype` only rounds them.
        """
        ...


@dataclass(frozen=True)
class LogNormal:
    """ln sigma ~ N(P_mean, P_std^2). Source: Karras et al. 2022, Table 1."""

    P_mean: float = -1.2  # mean of ln sigma
    P_std: float = 1.2  # standard deviation of ln sigma, > 0

    def __post_init__(self) -> None:
        if not self.P_std > 0:
            raise ValueError(f"P_std must be positive, got {self.P_std}")

    def sample(
        self, batch_size: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Noise levels, (batch_size,) of `dtype`, on the generator's device."""
        normal = torch.randn(
            batch_size, generator=generator, dtype=torch.float64, device=generator.device
        )
        return (self.P_mean + self.P_std * normal).exp().to(dtype)


@dataclass(frozen=True)
class KarrasUniform:
    """Position on the Karras ramp ~ U[low, high); 0 is sigma_max, 1 is sigma_min.

    With the defaults sigma lies in (0.318, 80]. Source: CTM's published code, `diffusion_mult`.
    """

    low: float = 0.0  # smallest position, >= 0
    high: float = 0.7  # largest position, <= 1
    sigma_min: float = SIGMA_MIN  # noise level at position 1
    sigma_max: float = SIGMA_MAX  # noise level at position 0
    rho: float = RHO  # curvature of the ramp

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"need 0 <= low < high <= 1, got low={self.low}, high={self.high}")
        check_sigma_range(self.sigma_min, self.sigma_max)

    def sample(
        self, batch_size: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Noise levels, (batch_size,) of `dtype`, on the generator's device."""
        uniform = torch.rand(
            batch_size, generator=generator, dtype=torch.float64, device=generator.device
        )
        position = self.low + (self.high - self.low) * uniform
        return karras_sigma(position, self.sigma_min, self.sigma_max, self.rho).to(dtype)


@dataclass(frozen=True)
class HalfLogNormal:
    """CTM's denoising noise levels: floor(B/2) rows log-normal, the others Karras-uniform.

    B is the whole batch of an optimizer step, so the mixture does not depend on the microbatch
    size (in the published code it does). `interleave` gives odd rows the log-normal instead of
    the first half, so that consecutive shares of the batch see the same mixture.

    Source: Kim et al. 2024, published code, `HalfLogNormalHalfUniformSampler`.
    """

    P_mean: float = -1.2  # mean of ln sigma in the log-normal half
    P_std: float = 1.2  # standard deviation of ln sigma, > 0
    low: float = 0.0  # smallest ramp position of the uniform half
    high: float = 0.7  # largest ramp position of the uniform half
    sigma_min: float = SIGMA_MIN  # noise level at ramp position 1
    sigma_max: float = SIGMA_MAX  # noise level at ramp position 0
    rho: float = RHO  # curvature of the ramp
    interleave: bool = False  # alternate the two halves instead of one after the other

    def __post_init__(self) -> None:
        self.halves()

    def halves(self) -> tuple[LogNormal, KarrasUniform]:
        """The two densities that are mixed.

        Raises:
            ValueError: if the parameters of either are out of range.
        """
        uniform = KarrasUniform(self.low, self.high, self.sigma_min, self.sigma_max, self.rho)
        return LogNormal(self.P_mean, self.P_std), uniform

    def sample(
        self, batch_size: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Noise levels, (batch_size,) of `dtype`, on the generator's device."""
        log_normal, uniform = self.halves()
        half = batch_size // 2
        first = log_normal.sample(half, generator, dtype)
        second = uniform.sample(batch_size - half, generator, dtype)
        if not self.interleave:
            return torch.cat([first, second])
        sigma = torch.empty(batch_size, dtype=dtype, device=first.device)
        sigma[1::2], sigma[0::2] = first, second
        return sigma


AnyDensity = LogNormal | KarrasUniform | HalfLogNormal
DENSITIES = Registry(
    "noise-level density",
    {
        "log_normal": "ctm_fast.densities:LogNormal",
        "karras_uniform": "ctm_fast.densities:KarrasUniform",
        "half_log_normal": "ctm_fast.densities:HalfLogNormal",
    },
)
