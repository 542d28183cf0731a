"""Sampling by jumps: land below the next noise level, then add noise up to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..wrappers import Group
from .seeding import GeneratorNoise, NoiseSampler
from .step_tables import SAME_LEVEL, jump_sigmas, renoise_stds

Callback = Callable[[dict[str, Any]], None]
Correct = Callable[[int, Tensor], Tensor]  # correct(i, x): x before step i > 0; see `Langevin`


def sample_jumps(
    model: Any,
    x: Tensor,
    sigmas: Tensor | Iterable[float],
    extra_args: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    landings: Iterable[float],
    noise_sampler: NoiseSampler | None = None,
    generator: torch.Generator | None = None,
    correct: Correct | None = None,
) -> Tensor:
    """Images at sigmas[-1] by one jump per step, shape and dtype of x; k-diffusion's form.

    Step i jumps from sigmas[i] to landings[i] and adds noise of standard deviation
    sqrt(sigmas[i + 1]^2 - landings[i]^2). Where that is zero no noise is drawn.

    Args:
        model: has .jump(x, sigma, sigma_to, **extra_args), sigma and sigma_to (batch,); a
            `Denoiser` gets numbers.
        x: (batch, C, H, W) noise, already scaled by sigmas[0]; never rescaled.
        sigmas: (steps + 1,) decreasing; a final 0 is left out, since jumps end at sigma_min.
        extra_args: passed on to model.jump, for example {"labels": labels}.
        callback: called after every jump with the keys x (before the step), i, sigma, sigma_hat
            (= sigma) and denoised (the point landed on).
        disable: of the progress bar; None shows it on a terminal only.
        landings: (steps,) levels jumped to, 0 < landings[i] <= sigmas[i + 1], ending at sigmas[-1].
        noise_sampler: called as noise_sampler(sigma, sigma_to) with numbers on the CPU, returns
            unit noise of x's shape.
        generator: draws the noise if there is no noise_sampler; None is PyTorch's global one.
        correct: called as correct(i, x) before every step but the first, as `Langevin` is.

    Raises:
        ValueError: for bad sigmas or landings, or a model that cannot make these jumps.
    """
    levels = jump_sigmas(sigmas)
    destinations = [float(landing) for landing in landings]
    stds = renoise_stds(levels, destinations)
    args = (extra_args, callback, disable, noise_sampler, generator, correct)
    return jumps(model, x, levels, destinations, stds, *args)


def jumps(
    model: Any,
    x: Tensor,
    levels: list[float],
    destinations: list[float],
    stds: list[float],
    extra_args: Mapping[str, Any] | None,
    callback: Callback | None,
    disable: bool | None,
    noise_sampler: NoiseSampler | None,
    generator: torch.Generator | None,
    correct: Correct | None = None,
) -> Tensor:
    """Images at levels[-1], shape and dtype of x: one jump and one addition of noise per step.

    Args:
        model: as in `sample_jumps`, like all that is not below.
        x: (batch, C, H, W) noise, already scaled by levels[0].
        levels: (steps + 1,) where the steps begin and end.
        destinations: (steps,) where the jumps land.
        stds: (steps,) of the noise that is added to every landed image, the last one 0.
        extra_args: as in `sample_jumps`.
        callback: as in `sample_jumps`.
        disable: as in `sample_jumps`.
        noise_sampler: as in `sample_jumps`.
        generator: as in `sample_jumps`.
        correct: as in `sample_jumps`.

    Raises:
        ValueError: if the model cannot make these jumps.
    """
    check_jumps(model, destinations)
    state = as_state(x)
    noise = noise_sampler or GeneratorNoise(state, generator)
    for i in steps_bar(len(stds), disable):
        if correct is not None and i > 0:
            state = correct(i, state)
        sigma, sigma_to = (level_for(model, level, state) for level in (levels[i], destinations[i]))
        landed = model.jump(state, sigma, sigma_to, **(extra_args or {}))
        if callback is not None:
            here = state.new_full((), levels[i])
            callback(report(state, i, here, here, landed))
        state = landed
        if stds[i] > 0:
            unit = noise(on_cpu(levels[i]), on_cpu(levels[i + 1]))
            state = torch.add(landed, unit.to(landed.dtype), alpha=stds[i])
    return state.to(x.dtype)


def report(x: Tensor, i: int, sigma: Tensor, sigma_hat: Tensor, denoised: Tensor) -> dict[str, Any]:
    """k-diffusion's callback dictionary; the levels are () tensors on x's device."""
    return {"x": x, "i": i, "sigma": sigma, "sigma_hat": sigma_hat, "denoised": denoised}


def as_state(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is float64: what a sampler computes in."""
    return x if x.dtype == torch.float64 else x.float()


def on_cpu(level: float) -> Tensor:
    """Level as a () float64 tensor on the CPU, which a noise sampler reads without waiting."""
    return torch.tensor(level, dtype=torch.float64)


def level_for(model: Any, level: float, x: Tensor) -> Tensor | float:
    """Level as a model takes it: (batch,) in x's dtype, filled on its device without waiting.

    A `Denoiser` gets the number itself, for which a frozen one has a table, and so does a group.
    """
    return level if isinstance(model, Denoiser | Group) else x.new_full((len(x),), level)


def steps_bar(steps: int, disable: bool | None) -> Iterable[int]:
    """0, ..., steps - 1 with a progress bar."""
    if disable:
        return range(steps)
    from tqdm.auto import trange

    return trange(steps, disable=disable)


def check_jumps(model: Any, landings: list[float]) -> None:
    """Raise ValueError if the model cannot jump to these levels."""
    kind = getattr(model, "kind", "trajectory")
    if kind == "denoiser" or not hasattr(model, "jump"):
        raise ValueError(
            "this method needs a model that jumps, and this one only denoises; use an ODE method "
            "('heun', 'euler' or 'churn'), or distil it into a trajectory model first"
        )
    if kind == "consistency":
        low = float(model.sigma_min)
        elsewhere = [s for s in landings if not math.isclose(s, low, rel_tol=SAME_LEVEL)]
        if elsewhere:
            raise ValueError(
                f"a consistency model jumps to its sigma_min={low} only, not to {elsewhere}; "
                "use method 'onestep' or 'cm_multistep'"
            )
