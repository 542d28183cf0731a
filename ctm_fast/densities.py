"""Random training noise levels.

Karras et al. 2022 (EDM); Kim et al. 2024 (CTM); Song & Dhariwal 2023 (iCT); Lee et al. 2024 (TCM).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .registry import Registry
from .sigmas import RHO, SIGMA_MAX, SIGMA_MIN, check_sigma_range, karras_sigma, karras_sigmas
from .student_t import truncated_quantile


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
        position = self.low + (self.high - self.low) * _uniform(batch_size, generator)
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


class _ByQuantile:
    """Densities that are drawn through the inverse of their distribution function."""

    def quantile(self, p: Tensor) -> Tensor:
        """Noise level below which a share `p` lies; shape of `p`, float64 in and out."""
        raise NotImplementedError

    def sample(
        self, batch_size: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Noise levels, (batch_size,) of `dtype`, on the generator's device."""
        return self.quantile(_uniform(batch_size, generator)).to(dtype)


@dataclass(frozen=True)
class TruncatedLogNormal(_ByQuantile):
    """ln sigma ~ N(P_mean, P_std^2), given that sigma lies in [low, high].

    Source: Lee et al. 2024 (TCM), published code: the levels of the first stage.
    """

    P_mean: float = -1.1  # mean of ln sigma before truncation; ImageNet-64: -0.8
    P_std: float = 2.0  # standard deviation of ln sigma before truncation, > 0; ImageNet-64: 1.6
    low: float = SIGMA_MIN  # smallest noise level, > 0
    high: float = SIGMA_MAX  # largest noise level

    def __post_init__(self) -> None:
        check_sigma_range(self.low, self.high)
        if not self.P_std > 0:
            raise ValueError(f"P_std must be positive, got {self.P_std}")
        if not float(self._tails().diff().abs()) > 0:
            raise ValueError(f"no noise level falls between low={self.low} and high={self.high}")

    def _side(self) -> float:
        """1 if most of [low, high] is below the median, else -1."""
        return 1.0 if math.log(self.low) + math.log(self.high) <= 2 * self.P_mean else -1.0

    def _tails(self) -> Tensor:
        """Mass of the tail beyond each end, on the side of the median where it keeps its digits."""
        ends = torch.tensor([self.low, self.high], dtype=torch.float64).log()
        return _normal_below(self._side() * (ends - self.P_mean) / self.P_std)

    def quantile(self, p: Tensor) -> Tensor:
        """Noise level below which a share `p` lies; shape of `p`, float64 in and out."""
        first, last = self._tails().tolist()
        normal = self._side() * torch.special.ndtri(first + p * (last - first))
        return (self.P_mean + self.P_std * normal).exp().clamp(self.low, self.high)


@dataclass(frozen=True)
class DiscretisedLogNormal(_ByQuantile):
    """Level of a Karras grid: each interval has the log-normal mass between its two ends.

    `sample` gives the upper end of the interval; `pairs` gives both, and `probabilities` the
    masses. Source: Song & Dhariwal 2023 (iCT, arXiv:2310.14189), Section 3.5.
    """

    num_scales: int = 1281  # levels of the grid, >= 2; iCT ends with 1281
    P_mean: float = -1.1  # mean of ln sigma
    P_std: float = 2.0  # standard deviation of ln sigma, > 0
    sigma_min: float = SIGMA_MIN  # smallest level of the grid
    sigma_max: float = SIGMA_MAX  # largest level of the grid
    rho: float = RHO  # curvature of the grid

    def __post_init__(self) -> None:
        if not self.P_std > 0:
            raise ValueError(f"P_std must be positive, got {self.P_std}")
        if not bool((self._masses() > 0).any()):
            raise ValueError(f"no noise level falls on the grid with P_mean={self.P_mean}")

    def grid(self) -> Tensor:
        """The noise levels, (num_scales,) float64, decreasing."""
        return karras_sigmas(self.num_scales, self.sigma_min, self.sigma_max, self.rho)

    def _masses(self) -> Tensor:
        z = (self.grid().log() - self.P_mean) / self.P_std
        return _normal_below(z[:-1]) - _normal_below(z[1:])

    def probabilities(self) -> Tensor:
        """P(interval from level i to level i + 1), (num_scales - 1,) float64."""
        return self._masses() / self._masses().sum()

    def intervals(self, p: Tensor) -> Tensor:
        """Index i of the interval at the share `p` of the mass from sigma_min up, int64."""
        shares = self.probabilities().flip(0).cumsum(0).to(p.device)
        rising = torch.searchsorted(shares, p, right=True)
        return self.num_scales - 2 - rising.clamp(max=self.num_scales - 2)

    def quantile(self, p: Tensor) -> Tensor:
        """Upper end of the interval at the share `p` of the mass; shape of `p`, float64."""
        return self.grid().to(p.device)[self.intervals(p)]

    def pairs(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Both ends (t, r) of the drawn intervals, t > r: (batch_size,) float64 each.

        t is what `sample` gives in float64 for the same generator.
        """
        uniform = _uniform(batch_size, generator)
        grid, i = self.grid().to(uniform.device), self.intervals(uniform)
        return grid[i], grid[i + 1]


@dataclass(frozen=True)
class LogStudentT(_ByQuantile):
    """ln sigma = mu + scale T, T a Student t variable, given that sigma lies in [low, high].

    With few degrees of freedom half the levels are next to `low` while the others spread evenly
    over many orders of magnitude. Source: Lee et al. 2024 (TCM, arXiv:2410.14895) and its
    published code: the levels of the second stage.
    """

    mu: float = 0.0  # centre of ln sigma
    scale: float = 0.2  # factor on T, > 0
    nu: float = 0.01  # degrees of freedom, > 0
    low: float = 1.0  # smallest noise level, > 0
    high: float = SIGMA_MAX  # largest noise level

    def __post_init__(self) -> None:
        check_sigma_range(self.low, self.high)
        if not (self.scale > 0 and self.nu > 0):
            raise ValueError(f"need scale > 0 and nu > 0, got scale={self.scale}, nu={self.nu}")

    def quantile(self, p: Tensor) -> Tensor:
        """Noise level below which a share `p` lies; shape of `p`, float64 in and out."""
        ends = ((math.log(sigma) - self.mu) / self.scale for sigma in (self.low, self.high))
        student = truncated_quantile(p, self.nu, *ends)
        return (self.mu + self.scale * student).exp().clamp(self.low, self.high)


@dataclass(frozen=True)
class LogitNormal(LogNormal):
    """The time tau = sigma / (1 + sigma) of the linear path is logit-normal.

    logit(tau) is ln sigma, so the noise levels are log-normal; what differs is `times`.
    Source: Geng et al. 2025 (MeanFlow, arXiv:2505.13447), published code.
    """

    P_mean: float = -0.4  # mean of logit(tau); -2.0 CIFAR-10
    P_std: float = 1.0  # standard deviation of logit(tau), > 0; 2.0 CIFAR-10

    def times(
        self, batch_size: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """tau in (0, 1) of the levels that `sample` draws, (batch_size,) of `dtype`."""
        return self.sample(batch_size, generator, torch.float64).log().sigmoid().to(dtype)


def _uniform(size: int, generator: torch.Generator) -> Tensor:
    return torch.rand(size, generator=generator, dtype=torch.float64, device=generator.device)


def _normal_below(z: Tensor) -> Tensor:
    # torch.special.ndtr has no digits left below -6.
    return torch.erfc(-z / math.sqrt(2)) / 2


AnyDensity = (
    LogNormal | KarrasUniform | HalfLogNormal | TruncatedLogNormal | DiscretisedLogNormal
    | LogStudentT | LogitNormal
)  # fmt: skip
DENSITIES = Registry(
    "noise-level density",
    {
        "log_normal": "ctm_fast.densities:LogNormal",
        "karras_uniform": "ctm_fast.densities:KarrasUniform",
        "half_log_normal": "ctm_fast.densities:HalfLogNormal",
        "truncated_log_normal": "ctm_fast.densities:TruncatedLogNormal",
        "discretised_log_normal": "ctm_fast.densities:DiscretisedLogNormal",
        "log_student_t": "ctm_fast.densities:LogStudentT",
        "logit_normal": "ctm_fast.densities:LogitNormal",
    },
)
