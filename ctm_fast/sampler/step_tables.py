"""Noise levels that a sampler visits, and where its jumps land. Kim et al. 2024 (CTM)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ..sigmas import RHO, SIGMA_MAX, SIGMA_MIN, check_sigma_range, karras_sigmas
from .methods import JUMP_METHODS, METHODS

# Relative. Grids computed in float32 end at 0.00199999963 instead of 0.002.
SAME_LEVEL = 1e-5
FLOAT32_ULP = 2.0**-23


def sampling_sigmas(
    method: str,
    steps: int,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
    rho: float = RHO,
    kind: str = "denoiser",
) -> Tensor:
    """Noise levels of `steps` steps, (steps + 1,) float64, decreasing from sigma_max.

    Jumps, and Euler on a trajectory model, take steps + 1 Karras levels and end at sigma_min.
    The other ODE samplers take `steps` Karras levels and a final 0, as EDM does.

    Args:
        method: one of METHODS; onestep takes steps=1 only.
        steps: >= 1.
        sigma_min: smallest Karras level, > 0.
        sigma_max: first level.
        rho: spacing, > 0.
        kind: kind of the model, which matters to "euler" only.

    Raises:
        ValueError: for an unknown method, steps < 1 or a bad sigma range.

    Source: sony/ctm `karras_sample`; Karras et al. 2022, Algorithm 1.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {METHODS}")
    if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 1:
        raise ValueError(f"steps is {steps!r}; it must be an integer, at least 1")
    if method == "onestep" and steps != 1:
        raise ValueError(f"method 'onestep' takes steps=1, got {steps}; use 'cm_multistep'")
    if method in JUMP_METHODS or (method == "euler" and kind == "trajectory"):
        return karras_sigmas(int(steps) + 1, sigma_min, sigma_max, rho)
    check_sigma_range(sigma_min, sigma_max)
    first = torch.tensor([sigma_max], dtype=torch.float64)
    levels = first if steps == 1 else karras_sigmas(steps, sigma_min, sigma_max, rho)
    return torch.cat([levels, levels.new_zeros(1)])


def checked_sigmas(sigmas: Iterable[float] | Tensor, what: str = "sigmas") -> list[float]:
    """Levels as Python floats.

    Raises:
        ValueError: unless there are at least two, finite, strictly decreasing and >= 0.
    """
    values: Any = sigmas.tolist() if hasattr(sigmas, "tolist") else list(sigmas)
    if not isinstance(values, list) or any(isinstance(value, list) for value in values):
        raise ValueError(f"{what} must be one-dimensional, got {values}")
    levels = [float(value) for value in values]
    if len(levels) < 2:
        raise ValueError(f"{what} needs at least two levels, got {levels}")
    if not all(math.isfinite(level) and level >= 0 for level in levels):
        raise ValueError(f"{what} must be finite and not negative, got {levels}")
    if any(after >= before for before, after in itertools.pairwise(levels)):
        raise ValueError(f"{what} must be strictly decreasing, got {levels}")
    return levels


def jump_sigmas(sigmas: Iterable[float] | Tensor) -> list[float]:
    """Levels for a sampler that jumps: a final 0 is left out, since jumps end at sigma_min.

    Raises:
        ValueError: as `checked_sigmas`, and if fewer than two positive levels remain.
    """
    levels = checked_sigmas(sigmas)
    if levels[-1] == 0:
        levels.pop()
    return checked_sigmas(levels, "sigmas without the final 0")


def exact_landings(sigmas: list[float]) -> list[float]:
    """Every jump lands on the next level: deterministic, gamma = 0."""
    return sigmas[1:]


def cm_landings(sigmas: list[float]) -> list[float]:
    """Every jump lands on the last level: the consistency model's sampler, gamma = 1."""
    return [sigmas[-1]] * (len(sigmas) - 1)


def gamma_landings(sigmas: list[float], gamma: float) -> list[float]:
    """s = sqrt(1 - gamma^2) (t_next - sigma_min) + sigma_min, with sigma_min = sigmas[-1].

    Raises:
        ValueError: unless 0 <= gamma <= 1.

    Source: CTM, Algorithm 2, in the released code's form that respects sigma_min.
    """
    check_gamma(gamma)
    if gamma == 0:
        return exact_landings(sigmas)
    keep, low = math.sqrt(1 - gamma**2), sigmas[-1]
    return [keep * (sigma - low) + low for sigma in sigmas[1:]]


def check_gamma(gamma: float) -> None:
    """Raise ValueError unless 0 <= gamma <= 1."""
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}; it must lie in [0, 1]")


def renoise_stds(sigmas: list[float], landings: list[float]) -> list[float]:
    """Noise that lifts each landing s back to the next level t: sqrt(t^2 - s^2), last one 0.

    A landing that is the next level up to float32 rounding counts as equal to it.

    Raises:
        ValueError: unless there is one landing per step, 0 < s <= t, and the last one is
            sigmas[-1].
    """
    if len(landings) != len(sigmas) - 1:
        raise ValueError(f"{len(sigmas)} sigmas need {len(sigmas) - 1} landings, got {landings}")
    if not math.isclose(landings[-1], sigmas[-1], rel_tol=SAME_LEVEL):
        raise ValueError(
            f"the last landing is {landings[-1]}; it must be the last sigma, {sigmas[-1]}"
        )
    stds = []
    for landing, sigma in zip(landings[:-1], sigmas[1:-1], strict=True):
        same = math.isclose(landing, sigma, rel_tol=FLOAT32_ULP)
        if not (0 < landing <= sigma or same):
            raise ValueError(f"landing {landing} must lie in (0, {sigma}], below the next sigma")
        stds.append(0.0 if same else math.sqrt((sigma - landing) * (sigma + landing)))
    return [*stds, 0.0]


def two_step(
    land: int,
    renoise: int,
    num_scales: int = 18,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
    rho: float = RHO,
) -> tuple[list[float], list[float]]:
    """(sigmas, landings) of CTM's two-step sampler, for `sample_jumps`.

    The first jump goes from sigma_max to level `land` of a Karras grid of `num_scales` levels,
    noise lifts the image to level `renoise`, the second jump goes to sigma_min.

    Args:
        land: index in the grid, `ind_1` of the released code.
        renoise: index in the grid, `ind_2`; a higher noise level, so renoise <= land.
        num_scales: levels of the grid, 18 (CIFAR-10) or 40 (ImageNet-64) in the released code.
        sigma_min: as in `karras_sigmas`, with sigma_max and rho.
        sigma_max: first level.
        rho: spacing.

    Raises:
        ValueError: unless 0 < renoise <= land < num_scales and renoise < num_scales - 1.

    Source: sony/ctm, `--sampler=gamma`.
    """
    if not 0 < renoise <= land < num_scales or renoise == num_scales - 1:
        raise ValueError(
            f"need 0 < renoise <= land < {num_scales} and renoise < {num_scales - 1}, "
            f"got land={land}, renoise={renoise}"
        )
    grid = karras_sigmas(num_scales, sigma_min, sigma_max, rho).tolist()
    return [grid[0], grid[renoise], grid[-1]], [grid[land], grid[-1]]
