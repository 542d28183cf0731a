"""CTM's gamma-sampling, and its deterministic case. Kim et al. 2024, arXiv:2310.02279."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .jumps import Callback, Correct, sample_jumps
from .seeding import NoiseSampler
from .step_tables import exact_landings, gamma_landings, jump_sigmas


def sample_gamma(
    model: Any,
    x: Tensor,
    sigmas: Tensor | Iterable[float],
    extra_args: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    gamma: float = 0.5,
    noise_sampler: NoiseSampler | None = None,
    generator: torch.Generator | None = None,
    correct: Correct | None = None,
) -> Tensor:
    """Images at sigmas[-1] by gamma-sampling, shape and dtype of x; k-diffusion's form.

    Each step jumps to s = sqrt(1 - gamma^2) (t_next - sigma_min) + sigma_min and adds noise of
    standard deviation sqrt(t_next^2 - s^2); the last step lands on sigma_min = sigmas[-1] without
    noise. gamma=0 is `sample_exact`, gamma=1 is `sample_cm_multistep`.

    Args:
        model: has .jump(x, sigma, sigma_to, **extra_args).
        x: (batch, C, H, W) noise, already scaled by sigmas[0].
        sigmas: (steps + 1,) decreasing; a final 0 is left out.
        extra_args: passed on to model.jump, for example {"labels": labels}.
        callback: as in `sample_jumps`.
        disable: of the progress bar.
        gamma: in [0, 1], share of noise that is drawn anew.
        noise_sampler: as in `sample_jumps`.
        generator: as in `sample_jumps`.
        correct: as in `sample_jumps`.

    Raises:
        ValueError: for gamma outside [0, 1], bad sigmas or a model that cannot jump.

    Source: CTM, Algorithm 2; sigma_min as in the released code.
    """
    levels = jump_sigmas(sigmas)
    return sample_jumps(
        model,
        x,
        levels,
        extra_args,
        callback,
        disable,
        landings=gamma_landings(levels, gamma),
        noise_sampler=noise_sampler,
        generator=generator,
        correct=correct,
    )


def sample_exact(
    model: Any,
    x: Tensor,
    sigmas: Tensor | Iterable[float],
    extra_args: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    noise_sampler: NoiseSampler | None = None,
    correct: Correct | None = None,
) -> Tensor:
    """Images at sigmas[-1] by deterministic jumps (gamma = 0); k-diffusion's form.

    Args:
        model: has .jump(x, sigma, sigma_to, **extra_args).
        x: (batch, C, H, W) noise, already scaled by sigmas[0].
        sigmas: (steps + 1,) decreasing; a final 0 is left out.
        extra_args: passed on to model.jump, for example {"labels": labels}.
        callback: as in `sample_jumps`.
        disable: of the progress bar.
        noise_sampler: accepted for hosts that always pass one; never called.
        correct: as in `sample_jumps`.

    Raises:
        ValueError: for bad sigmas or a model that cannot jump.

    Source: sony/ctm, `--sampler=exact`.
    """
    levels = jump_sigmas(sigmas)
    return sample_jumps(
        model,
        x,
        levels,
        extra_args,
        callback,
        disable,
        landings=exact_landings(levels),
        noise_sampler=noise_sampler,
        correct=correct,
    )
