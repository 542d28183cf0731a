"""Weights of a loss at noise level t (and destination s). Source: sony/ctm, `weight_schedule`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Weighting = Callable[[Tensor, Tensor, float], Tensor]  # (t, s, sigma_data) -> (batch,)


def uniform(t: Tensor, s: Tensor, sigma_data: float) -> Tensor:
    """1, the published choice for the consistency term."""
    return torch.ones_like(t)


def snr(t: Tensor, s: Tensor, sigma_data: float) -> Tensor:
    """t^-2."""
    return t**-2


def snr_plus_one(t: Tensor, s: Tensor, sigma_data: float) -> Tensor:
    """t^-2 + 1."""
    return t**-2 + 1


def truncated_snr(t: Tensor, s: Tensor, sigma_data: float) -> Tensor:
    """max(t^-2, 1)."""
    return (t**-2).clamp(min=1)


def karras(t: Tensor, s: Tensor, sigma_data: float) -> Tensor:
    """t^-2 + sigma_data^-2: EDM's weight, 1 / c_out(t)^2. Source: Karras et al. 2022, Table 1."""
    return t**-2 + sigma_data**-2


def sqrt_t(t: Tensor, s: Tensor, sigma_data: float) -> Tensor:
    """sqrt(t): sony/ctm's `sq-t-inverse`, (t^-2)^(-1/4)."""
    return t.sqrt()


def inverse_gap(t: Tensor, s: Tensor, sigma_data: float) -> Tensor:
    """1 / (1 - s/t): sony/ctm's `uniform_g` with exponent 1; not finite at s = t."""
    return 1 / (1 - s / t)


def inverse_step(t: Tensor, s: Tensor, sigma_data: float) -> Tensor:
    """1 / (t - s); not finite at s = t. Source: Song & Dhariwal 2023 (iCT), Section 3.5; ECT."""
    return 1 / (t - s)


WEIGHTINGS: dict[str, Weighting] = {
    "uniform": uniform,
    "snr": snr,
    "snr_plus_one": snr_plus_one,
    "truncated_snr": truncated_snr,
    "karras": karras,
    "sqrt_t": sqrt_t,
    "inverse_gap": inverse_gap,
    "inverse_step": inverse_step,
}


def weighting(name: str) -> Weighting:
    """Weighting of that name.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in WEIGHTINGS:
        raise ValueError(f"unknown weighting {name!r}; choose from {sorted(WEIGHTINGS)}")
    return WEIGHTINGS[name]
