"""How other codebases tell a network the noise level, in terms of sigma.

Legend: x = x0 + sigma n is the state here, y = scale(sigma) x the host's, t its time; n is unit
noise and sd is sigma_data. u is a velocity dy/dt in units of `unit`: dy/dt = unit * u(y / unit, t).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ..noise_embeddings import DiscreteTime
from ..precond import CM, EDM, Euler, Preconditioning
from ..registry import Registry
from ..sigmas import SIGMA_MAX, SIGMA_MIN

Coefficients = tuple[Tensor, Tensor]
# Flow time has no largest sigma: t = 1 is pure noise. This close to it, nothing changes by more
# than 1e-6 of the noise, and float32 still tells t from 1.
FLOW_ENDS = (1e-6, 1e6)


class Time(Protocol):
    """A host's time and the scale of its states. `sigma` is a tensor of any shape."""

    @property
    def meaning(self) -> str:
        """One line in the host's terms."""
        ...

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest sigma that a network is asked for."""
        ...

    @property
    def predictions(self) -> tuple[str, ...]:
        """What a network may answer for the image, the usual answer first."""
        ...

    @property
    def even(self) -> bool:
        """Whether hosts take steps of equal length in this time."""
        ...

    def time(self, sigma: Tensor) -> Tensor:
        """t, shape of `sigma`."""
        ...

    def sigma(self, time: Tensor) -> Tensor:
        """The inverse of `time`."""
        ...

    def scale(self, sigma: Tensor) -> Tensor:
        """y / x, shape of `sigma`."""
        ...


class VelocityTime(Time, Protocol):
    """A time in which a velocity dy/dt makes sense."""

    @property
    def unit(self) -> float:
        """Number that the velocity is a multiple of."""
        ...

    def gap(self, sigma: Tensor, sigma_to: Tensor) -> Tensor:
        """t(sigma_to) - t(sigma), without cancellation."""
        ...

    def velocity(self, sigma: Tensor) -> Coefficients:
        """(P, Q) with E[x0 | x] = P x + Q u."""
        ...


@dataclass(frozen=True)
class RawSigma:
    """t = sigma, y = x. Source: Karras et al. 2022 (EDM, EDM2, ECT, k-diffusion)."""

    meaning: ClassVar[str] = "raw sigma, x = x0 + sigma n"
    range: ClassVar[tuple[float, float]] = (SIGMA_MIN, SIGMA_MAX)
    predictions: ClassVar[tuple[str, ...]] = ("image", "epsilon")
    even: ClassVar[bool] = False
    unit: ClassVar[float] = 1.0

    def time(self, sigma: Tensor) -> Tensor:
        """sigma."""
        return sigma

    def sigma(self, time: Tensor) -> Tensor:
        """t."""
        return time

    def scale(self, sigma: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(sigma)

    def gap(self, sigma: Tensor, sigma_to: Tensor) -> Tensor:
        """sigma_to - sigma."""
        return sigma_to - sigma

    def velocity(self, sigma: Tensor) -> Coefficients:
        """D = x - sigma u, since dx/dsigma = (x - D)/sigma."""
        return torch.ones_like(sigma), -sigma


@dataclass(frozen=True)
class FlowTime:
    """t = sigma/(1 + sigma), y = (1 - t) x0 + t n: t = 0 is the image, t = 1 pure noise.

    Source: Geng et al. 2025 (MeanFlow), Sabour et al. 2025 (AYF), Esser et al. 2024 (SD3).
    """

    meaning: ClassVar[str] = "flow time, x_t = (1 - t) x0 + t n, noise at t = 1"
    range: ClassVar[tuple[float, float]] = FLOW_ENDS
    predictions: ClassVar[tuple[str, ...]] = ("image", "epsilon")
    even: ClassVar[bool] = True
    unit: ClassVar[float] = 1.0

    def time(self, sigma: Tensor) -> Tensor:
        """t in [0, 1)."""
        return sigma / (1 + sigma)

    def sigma(self, time: Tensor) -> Tensor:
        """t/(1 - t)."""
        return time / (1 - time)

    def scale(self, sigma: Tensor) -> Tensor:
        """1 - t = 1/(1 + sigma)."""
        return 1 / (1 + sigma)

    def gap(self, sigma: Tensor, sigma_to: Tensor) -> Tensor:
        """t(sigma_to) - t(sigma)."""
        return (sigma_to - sigma) / ((1 + sigma) * (1 + sigma_to))

    def velocity(self, sigma: Tensor) -> Coefficients:
        """D = y - t u, with u = E[n - x0 | y]."""
        return self.scale(sigma), -sigma / (1 + sigma)


@dataclass(frozen=True)
class FlowMatchingTime(FlowTime):
    """t = 1/(1 + sigma), y = t x0 + (1 - t) n: t = 0 is pure noise, t = 1 the image.

    Source: Lipman et al. 2024 (the flow_matching library, `CondOTProbPath`).
    """

    meaning: ClassVar[str] = "flow time, x_t = t x0 + (1 - t) n, noise at t = 0"

    def time(self, sigma: Tensor) -> Tensor:
        """t in (0, 1]."""
        return 1 / (1 + sigma)

    def sigma(self, time: Tensor) -> Tensor:
        """(1 - t)/t."""
        return (1 - time) / time

    def gap(self, sigma: Tensor, sigma_to: Tensor) -> Tensor:
        """t(sigma_to) - t(sigma)."""
        return -super().gap(sigma, sigma_to)

    def velocity(self, sigma: Tensor) -> Coefficients:
        """D = y + (1 - t) u, with u = E[x0 - n | y]."""
        return self.scale(sigma), sigma / (1 + sigma)


@dataclass(frozen=True)
class TrigFlowTime:
    """t = arctan(sigma/sd), y = cos(t) x0 + sin(t) sd n. Source: Lu & Song 2024 (sCM)."""

    sigma_data: float = 0.5  # standard deviation of the training data, > 0

    meaning: ClassVar[str] = "TrigFlow, x_t = cos(t) x0 + sin(t) sigma_data n"
    range: ClassVar[tuple[float, float]] = (SIGMA_MIN, SIGMA_MAX)
    predictions: ClassVar[tuple[str, ...]] = ("image", "epsilon", "F")
    even: ClassVar[bool] = False

    @property
    def unit(self) -> float:
        """sd: dy/dt = sd F(y/sd, t)."""
        return self.sigma_data

    def time(self, sigma: Tensor) -> Tensor:
        """t in [0, pi/2)."""
        return (sigma / self.sigma_data).atan()

    def sigma(self, time: Tensor) -> Tensor:
        """sd tan(t)."""
        return self.sigma_data * time.tan()

    def scale(self, sigma: Tensor) -> Tensor:
        """cos(t) = sd/sqrt(sigma^2 + sd^2)."""
        return self.sigma_data / torch.hypot(sigma, torch.full_like(sigma, self.sigma_data))

    def gap(self, sigma: Tensor, sigma_to: Tensor) -> Tensor:
        """t(sigma_to) - t(sigma)."""
        sd = self.sigma_data
        return torch.atan2((sigma_to - sigma) * sd, sd**2 + sigma * sigma_to)

    def velocity(self, sigma: Tensor) -> Coefficients:
        """D = cos(t) y - sd sin(t) F."""
        cos = self.scale(sigma)
        return cos**2, -cos * sigma


@dataclass(frozen=True)
class DiffusersTime:
    """Index of a table of noise levels, y = x/sqrt(1 + sigma^2) (variance-preserving).

    Between two levels of the table t is interpolated over ln(sigma), as k-diffusion does.
    """

    table: DiscreteTime = field(default_factory=DiscreteTime)

    meaning: ClassVar[str] = "diffusers timesteps, x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) n"
    predictions: ClassVar[tuple[str, ...]] = ("epsilon", "image", "v")
    even: ClassVar[bool] = False

    @property
    def range(self) -> tuple[float, float]:
        """First and last level of the table."""
        return self.table.sigma_min, self.table.sigma_max

    def time(self, sigma: Tensor) -> Tensor:
        """Real index in [0, steps - 1]."""
        logs, level = _log_levels(self.table, sigma.device), sigma.double().log()
        above = torch.searchsorted(logs, level.contiguous()).clamp(1, len(logs) - 1)
        below = above - 1
        share = (level - logs[below]) / (logs[above] - logs[below])
        return (below + share.clamp(0, 1)).to(sigma.dtype)

    def sigma(self, time: Tensor) -> Tensor:
        """Level at a real index."""
        logs, index = _log_levels(self.table, time.device), time.double()
        below = index.floor().long().clamp(0, len(logs) - 2)
        return torch.lerp(logs[below], logs[below + 1], index - below).exp().to(time.dtype)

    def scale(self, sigma: Tensor) -> Tensor:
        """sqrt(abar) = 1/sqrt(1 + sigma^2)."""
        return (1 + sigma**2).rsqrt()


@lru_cache(maxsize=32)
def _log_levels(table: DiscreteTime, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return table.sigmas.log().to(device)


@dataclass(frozen=True)
class ADMTime:
    """t = 250 ln(sigma); the callable is a raw network on x/sqrt(sigma^2 + sd^2).

    Its output F is scaled as openai/consistency_models and sony/ctm do outside the network.
    """

    sigma_data: float = 0.5  # standard deviation of the training data, > 0

    meaning: ClassVar[str] = "time 250 ln(sigma), raw network F on x / sqrt(sigma^2 + sigma_data^2)"
    range: ClassVar[tuple[float, float]] = (SIGMA_MIN, SIGMA_MAX)
    predictions: ClassVar[tuple[str, ...]] = ("F",)

    def precond(self, kind: str, sigma_min: float) -> Preconditioning:
        """EDM scalings, for a consistency model those that are the identity at sigma_min."""
        sd = self.sigma_data
        inner = CM(sd, sigma_min) if kind == "consistency" else EDM(sd)
        return Preconditioning(inner, Euler(), "log_250")


TIMES = Registry(
    "time convention",
    {
        "edm": "ctm_fast.wrappers.times:RawSigma",
        "adm": "ctm_fast.wrappers.times:ADMTime",
        "diffusers": "ctm_fast.wrappers.times:DiffusersTime",
        "flow": "ctm_fast.wrappers.times:FlowTime",
        "flow_matching": "ctm_fast.wrappers.times:FlowMatchingTime",
        "trigflow": "ctm_fast.wrappers.times:TrigFlowTime",
    },
)
