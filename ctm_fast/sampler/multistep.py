"""The samplers of consistency models. Song et al. 2023, arXiv:2303.01469, Algorithm 1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .jumps import Callback, Correct, jumps, sample_jumps
from .seeding import NoiseSampler
from .step_tables import cm_landings, jump_sigmas, renoise_stds

SIGMA_MIN, ZERO = RENOISE = ("sigma_min", "zero")


def sample_cm_multistep(
    model: Any,
    x: Tensor,
    sigmas: Tensor | Iterable[float],
    extra_args: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    renoise: str = SIGMA_MIN,
    noise_sampler: NoiseSampler | None = None,
    generator: torch.Generator | None = None,
    correct: Correct | None = None,
) -> Tensor:
    """Images at sigmas[-1]: jump to the end, add noise, jump again; k-diffusion's form.

    The noise that leads to t_next has standard deviation sqrt(t_next^2 - sigma_min^2), with
    sigma_min = sigmas[-1], or t_next itself; none is added after the last jump.

    Args:
        model: has .jump(x, sigma, sigma_to, **extra_args); consistency or trajectory.
        x: (batch, C, H, W) noise, already scaled by sigmas[0].
        sigmas: (steps + 1,) decreasing, ending at the model's sigma_min; a final 0 is left out.
        extra_args: passed on to model.jump, for example {"labels": labels}.
        callback: as in `sample_jumps`.
        disable: of the progress bar.
        renoise: where a jump is taken to end, "sigma_min" (CM, CTM) or "zero" (iCT, ECT, TCM,
            whose networks are trained towards the image itself). For sigma_min = 0.002 and
            t_next = 0.821 the two deviations differ by 3e-6 of their size.
        noise_sampler: as in `sample_jumps`.
        generator: as in `sample_jumps`.
        correct: as in `sample_jumps`; of a trajectory model.

    Raises:
        ValueError: for bad sigmas, an unknown `renoise`, or a model that cannot jump.

    Source: Song et al. 2023, Algorithm 1; CTM with gamma = 1; ECT's published code for "zero".
    """
    levels = jump_sigmas(sigmas)
    landings = cm_landings(levels)
    stds = renoise_stds(levels, landings)
    if renoise == ZERO:
        stds = [*levels[1:-1], 0.0]
    elif renoise != SIGMA_MIN:
        raise ValueError(f"renoise is {renoise!r}; choose from {RENOISE}")
    args = (extra_args, callback, disable, noise_sampler, generator, correct)
    return jumps(model, x, levels, landings, stds, *args)


def sample_onestep(
    model: Any,
    x: Tensor,
    sigmas: Tensor | Iterable[float],
    extra_args: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Images at sigmas[-1] by one jump from sigmas[0]; k-diffusion's form.

    Args:
        model: has .jump(x, sigma, sigma_to, **extra_args); consistency or trajectory.
        x: (batch, C, H, W) noise, already scaled by sigmas[0].
        sigmas: decreasing; only the first and the last positive level are used.
        extra_args: passed on to model.jump, for example {"labels": labels}.
        callback: as in `sample_jumps`.
        disable: of the progress bar.
        noise_sampler: accepted for hosts that always pass one; never called.

    Raises:
        ValueError: for bad sigmas or a model that cannot jump.

    Source: Song et al. 2023, Section 3.
    """
    levels = jump_sigmas(sigmas)
    ends = [levels[0], levels[-1]]
    return sample_jumps(
        model,
        x,
        ends,
        extra_args,
        callback,
        disable,
        landings=ends[1:],
        noise_sampler=noise_sampler,
    )
