"""Noise embeddings c_noise(sigma): the number by which a network is told a noise level.

The simple ones are functions with a name; those with parameters are frozen dataclasses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .registry import Registry

DESTINATIONS = ("gap", "level")
SCHEDULES = ("linear", "scaled_linear", "cosine", "iddpm")


def quarter_log(sigma: Tensor) -> Tensor:
    """ln(sigma)/4, shape of `sigma`. Source: Karras et al. 2022, Table 1 (EDM)."""
    return sigma.log() / 4


def half_log(sigma: Tensor) -> Tensor:
    """ln(sigma/2), shape of `sigma`. Source: Karras et al. 2022, Table 1 (VE)."""
    return (sigma / 2).log()


def log_250(sigma: Tensor) -> Tensor:
    """250 ln(sigma + 1e-44), shape of `sigma`. Source: Song et al. 2023, published ADM code."""
    return 250 * (sigma + 1e-44).log()


@dataclass(frozen=True)
class VPTime:
    """(steps - 1) t, where sigma(t)^2 = exp(beta_d t^2/2 + beta_min t) - 1.

    Raises:
        ValueError: unless all parameters are positive and steps >= 2.

    Source: Song et al. 2021, Eq. 33; Karras et al. 2022, Table 1 (VP).
    """

    beta_d: float = 19.9  # beta_max - beta_min, > 0
    beta_min: float = 0.1  # slope of the schedule at t = 0, > 0
    steps: int = 1000  # time steps of the discrete process that it stems from

    def __post_init__(self) -> None:
        _check_positive(self, "beta_d", "beta_min")
        _check_steps(self.steps)

    def __call__(self, sigma: Tensor) -> Tensor:
        """Real time step in [0, steps - 1], shape of `sigma`."""
        # t = (sqrt(beta_min^2 + 2 beta_d L) - beta_min)/beta_d, without the difference.
        L = (sigma**2).log1p()
        root = (self.beta_min**2 + 2 * self.beta_d * L).sqrt()
        return (self.steps - 1) * 2 * L / (root + self.beta_min)

    def sigma(self, time: float) -> float:
        """Noise level at a time in [0, 1]."""
        return math.sqrt(math.expm1(self.beta_d * time**2 / 2 + self.beta_min * time))


@dataclass(frozen=True)
class DiscreteTime:
    """Index of the nearest of `steps` noise levels sigma_i = sqrt((1 - abar_i)/abar_i).

    abar_i is the product of 1 - beta_j for j <= i. iddpm has cosine's levels, and rounds what is
    nearer to 0 than to the smallest of them to index -1, as EDM's wrapper does.

    Raises:
        ValueError: for an unknown schedule, or parameters out of range.

    Source: Ho et al. 2020 (linear); Rombach et al. 2022 (scaled_linear); Nichol & Dhariwal 2021,
    Eq. 17 (cosine); Karras et al. 2022, Table 1 (iddpm, with C_1 = 1 - max_beta, C_2 = offset).
    """

    schedule: str = "linear"  # linear | scaled_linear: sqrt(beta) is linear | cosine | iddpm
    steps: int = 1000  # number of noise levels
    beta_start: float = 0.0001  # first beta of linear and scaled_linear, in (0, 1)
    beta_end: float = 0.02  # last one
    offset: float = 0.008  # shift of the cosine, > 0
    max_beta: float = 0.999  # largest beta of cosine and iddpm, in (0, 1)

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {self.schedule!r}; choose from {SCHEDULES}")
        _check_steps(self.steps)
        _check_positive(self, "offset", "beta_start", "beta_end", "max_beta")
        for name in ("beta_start", "beta_end", "max_beta"):
            if not getattr(self, name) < 1:
                raise ValueError(f"{name} must be below 1, got {getattr(self, name)}")
        if self.beta_start > self.beta_end:
            raise ValueError(
                f"need beta_start <= beta_end, got {self.beta_start} and {self.beta_end}"
            )

    def __call__(self, sigma: Tensor) -> Tensor:
        """Index, shape and dtype of `sigma`."""
        ends, first = _rounding_ends(self)
        exact = torch.promote_types(sigma.dtype, torch.float32)
        bounds = torch.tensor(ends, dtype=exact, device=sigma.device)
        index = torch.bucketize(sigma.to(exact).contiguous(), bounds)
        return (index + first).to(sigma.dtype)

    @property
    def sigmas(self) -> Tensor:
        """(steps,) float64, increasing."""
        return torch.tensor(_levels(self), dtype=torch.float64)

    @property
    def sigma_min(self) -> float:
        """Noise level of index 0."""
        return _levels(self)[0]

    @property
    def sigma_max(self) -> float:
        """Noise level of index steps - 1."""
        return _levels(self)[-1]


@lru_cache(maxsize=32)
def _levels(time: DiscreteTime) -> tuple[float, ...]:
    levels, log_abar = [], 0.0
    for beta in _betas(time):
        log_abar += math.log1p(-beta)
        levels.append(math.sqrt(math.expm1(-log_abar)))
    return tuple(levels)


def _betas(time: DiscreteTime) -> list[float]:
    low, high, last = time.beta_start, time.beta_end, time.steps - 1
    if time.schedule == "linear":
        return [low + (high - low) * i / last for i in range(time.steps)]
    if time.schedule == "scaled_linear":
        low, high = math.sqrt(low), math.sqrt(high)
        return [(low + (high - low) * i / last) ** 2 for i in range(time.steps)]
    phases = [
        (i / time.steps + time.offset) / (1 + time.offset) * math.pi / 2
        for i in range(time.steps + 1)
    ]
    abar = [math.cos(phase) ** 2 for phase in phases]
    return [min(1 - abar[i + 1] / abar[i], time.max_beta) for i in range(time.steps)]


@lru_cache(maxsize=32)
def _rounding_ends(time: DiscreteTime) -> tuple[tuple[float, ...], int]:
    """Midpoints between neighbouring levels, and the index below the first of them."""
    own = _levels(time)
    levels = (0.0, *own) if time.schedule == "iddpm" else own
    middles = [(a + b) / 2 for a, b in pairwise(levels)]
    return tuple(middles), len(own) - len(levels)


@dataclass(frozen=True)
class FlowTime:
    """scale tau, tau = sigma/(1 + sigma) in [0, 1): the time of the linear path, 1 is pure noise.

    A network that jumps is told the destination as the gap scale (tau - tau_to), which is 0 where
    it denoises, or as the level scale tau_to.

    Raises:
        ValueError: unless scale is positive, or for another destination.

    Source: Geng et al. 2025 (MeanFlow), Table 1c and published code: scale 1, told (t, t - r).
    """

    scale: float = 1.0  # factor on the time, > 0
    destination: str = "gap"  # gap: tau - tau_to | level: tau_to

    def __post_init__(self) -> None:
        _check_positive(self, "scale")
        if self.destination not in DESTINATIONS:
            raise ValueError(
                f"unknown destination {self.destination!r}; choose from {DESTINATIONS}"
            )

    def __call__(self, sigma: Tensor) -> Tensor:
        """Time in [0, scale), shape of `sigma`."""
        return self.scale * sigma / (1 + sigma)

    def towards(self, told: Tensor, told_to: Tensor) -> Tensor:
        """What the network is told of the level that it jumps to, shape of `told`."""
        return told_to if self.destination == "level" else told - told_to


# A name in NOISE_EMBEDDINGS, or one with parameters.
NoiseEmbedding = str | VPTime | DiscreteTime | FlowTime

# Networks of the EDM family take quarter_log, ADM networks of consistency models log_250.
NOISE_EMBEDDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "quarter_log": quarter_log,
    "half_log": half_log,
    "log_250": log_250,
}
PARAMETRIC = Registry(
    "noise embedding",
    {
        "vp_time": "ctm_fast.noise_embeddings:VPTime",
        "discrete_time": "ctm_fast.noise_embeddings:DiscreteTime",
        "flow_time": "ctm_fast.noise_embeddings:FlowTime",
    },
)


def check_noise_embedding(embedding: NoiseEmbedding) -> None:
    """Raise ValueError unless `embedding` is a known name or an object that maps noise levels."""
    known = embedding in NOISE_EMBEDDINGS if isinstance(embedding, str) else callable(embedding)
    if not known:
        raise ValueError(
            f"unknown noise_embedding {embedding!r}; choose from {sorted(NOISE_EMBEDDINGS)}"
            ", or give a VPTime, DiscreteTime or FlowTime"
        )


def c_noise(embedding: NoiseEmbedding, sigma: Tensor) -> Tensor:
    """What the network is told about noise levels, shape of `sigma`."""
    return (NOISE_EMBEDDINGS[embedding] if isinstance(embedding, str) else embedding)(sigma)


def c_noise_to(embedding: NoiseEmbedding, told: Tensor, told_to: Tensor) -> Tensor:
    """What the network is told about the levels jumped to, shape of `told`.

    Args:
        embedding: the embedding.
        told: `c_noise` of the levels of the input.
        told_to: `c_noise` of the levels jumped to; `told` itself where the network denoises.
    """
    return embedding.towards(told, told_to) if isinstance(embedding, FlowTime) else told_to


def embedding_to_json(embedding: NoiseEmbedding) -> str | dict[str, Any]:
    """JSON form: the name, or the name with the parameters."""
    return embedding if isinstance(embedding, str) else PARAMETRIC.to_json(embedding)


def embedding_from_json(data: Any) -> NoiseEmbedding:
    """Noise embedding written by `embedding_to_json`.

    Raises:
        ValueError: for unknown names or parameters.
    """
    embedding: NoiseEmbedding
    embedding = PARAMETRIC.from_json(data) if isinstance(data, Mapping) else str(data)
    check_noise_embedding(embedding)
    return embedding


def _check_positive(value: Any, *names: str) -> None:
    for name in names:
        if not 0 < getattr(value, name) < math.inf:
            raise ValueError(f"{name} must be positive, got {getattr(value, name)}")


def _check_steps(steps: int) -> None:
    if not 2 <= steps <= 1_000_000:
        raise ValueError(f"steps must be in [2, 1000000], got {steps}")
