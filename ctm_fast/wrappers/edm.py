"""The classes of NVlabs/edm and locuslab/ect that turn a network's output into an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..noise_embeddings import DiscreteTime, VPTime
from ..precond import EDM, Ect, Epsilon, Preconditioning, Score

Attributes = Mapping[str, Any]


@dataclass(frozen=True)
class Wrapper:
    """A published class that turns a network's output into a denoised image."""

    kind: str  # what such networks are trained to be
    precond: Callable[[Attributes], Preconditioning]
    levels: Callable[[Attributes], tuple[float, float]]  # sigma_min, sigma_max where not stored
    shift: bool = False  # evaluates with other scalings than it is trained with
    variance: bool = False  # the network also predicts a variance, in as many channels again
    tables: tuple[str, ...] = ()  # buffers beside the network that follow from the arguments


def number(a: Attributes, name: str, default: float) -> float:
    """The number among the attributes.

    Raises:
        ValueError: if it is something else.
    """
    value = a.get(name, default)
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
        raise ValueError(f"the network's {name} is a {type(value).__name__}, not a number")
    return float(value)


def _vp_time(a: Attributes) -> VPTime:
    return VPTime(number(a, "beta_d", 19.9), number(a, "beta_min", 0.1), _steps(a))


def _vp_levels(a: Attributes) -> tuple[float, float]:
    time = _vp_time(a)
    try:
        return time.sigma(number(a, "epsilon_t", 1e-5)), time.sigma(1.0)
    except (OverflowError, ValueError):
        raise ValueError(f"beta_d={time.beta_d:g} has no finite noise levels") from None


def _steps(a: Attributes) -> int:
    steps = number(a, "M", 1000)
    if not math.isfinite(steps) or steps != int(steps):
        raise ValueError(f"the network's M must be a whole number, got {steps}")
    return int(steps)


def _iddpm_time(a: Attributes) -> DiscreteTime:
    return DiscreteTime(
        "iddpm",
        steps=_steps(a),
        max_beta=1 - number(a, "C_1", 0.001),
        offset=number(a, "C_2", 0.008),
    )


def _sigma_data(a: Attributes) -> float:
    return number(a, "sigma_data", 0.5)


# Defaults of the published classes.
WRAPPERS = {
    "EDMPrecond": Wrapper(
        kind="denoiser",
        precond=lambda a: Preconditioning(EDM(_sigma_data(a))),
        levels=lambda a: (0.0, math.inf),
    ),
    "VPPrecond": Wrapper(
        kind="denoiser",
        precond=lambda a: Preconditioning(Epsilon(_sigma_data(a)), noise_embedding=_vp_time(a)),
        levels=_vp_levels,
    ),
    "VEPrecond": Wrapper(
        kind="denoiser",
        precond=lambda a: Preconditioning(Score(_sigma_data(a)), noise_embedding="half_log"),
        levels=lambda a: (0.02, 100.0),
    ),
    "iDDPMPrecond": Wrapper(
        kind="denoiser",
        precond=lambda a: Preconditioning(Epsilon(_sigma_data(a)), noise_embedding=_iddpm_time(a)),
        levels=lambda a: (_iddpm_time(a).sigma_min, _iddpm_time(a).sigma_max),
        variance=True,
        tables=("u",),
    ),
    "ECMPrecond": Wrapper(
        kind="consistency",
        precond=lambda a: Preconditioning(Ect(_sigma_data(a), number(a, "sigma_min", 0.003))),
        levels=lambda a: (0.003, math.inf),
        shift=True,
    ),
}
