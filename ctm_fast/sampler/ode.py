"""Sampling by solving the probability-flow ODE. Karras et al. 2022, arXiv:2206.00364."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..solvers import Churn, Euler, Heun, Solver, solve
from .jumps import Callback, Correct, as_state, level_for, on_cpu, report
from .seeding import GeneratorNoise, NoiseSampler
from .step_tables import checked_sigmas


def sample_heun(
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
    """Images at sigmas[-1] by Heun's method, shape and dtype of x; k-diffusion's form.

    Two network calls per step, one for a step to 0.

    Args:
        model: called as model(x, sigma, **extra_args) with sigma (batch,), a number for a
            `Denoiser`; returns denoised images.
        x: (batch, C, H, W) noise, already scaled by sigmas[0]; never rescaled.
        sigmas: (steps + 1,) decreasing; the last one may be 0.
        extra_args: passed on to the model, for example {"labels": labels}.
        callback: called after every step with the keys x (where the step began), i, sigma,
            sigma_hat and denoised (the first network call of the step).
        disable: of the progress bar; None shows it on a terminal only.
        noise_sampler: accepted for hosts that always pass one; never called.
        correct: called as correct(i, x) before every step but the first, as `Langevin` is.

    Raises:
        ValueError: for bad sigmas.

    Source: Karras et al. 2022, Algorithm 1.
    """
    return sample_ode(Heun(), model, x, sigmas, extra_args, callback, disable, None, correct)


def sample_euler(
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
    """Images at sigmas[-1] by Euler's method (DDIM), one network call per step.

    Args:
        model: as in `sample_heun`.
        x: as in `sample_heun`.
        sigmas: as in `sample_heun`.
        extra_args: as in `sample_heun`.
        callback: as in `sample_heun`.
        disable: as in `sample_heun`.
        noise_sampler: accepted for hosts that always pass one; never called.
        correct: as in `sample_heun`.

    Raises:
        ValueError: for bad sigmas.
    """
    return sample_ode(Euler(), model, x, sigmas, extra_args, callback, disable, None, correct)


def sample_churn(
    model: Any,
    x: Tensor,
    sigmas: Tensor | Iterable[float],
    extra_args: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    S_churn: float = Churn.S_churn,
    S_min: float = Churn.S_min,
    S_max: float = Churn.S_max,
    S_noise: float = Churn.S_noise,
    noise_sampler: NoiseSampler | None = None,
    generator: torch.Generator | None = None,
    correct: Correct | None = None,
) -> Tensor:
    """Images at sigmas[-1] by EDM's stochastic sampler: noise is added before each Heun step.

    The defaults are EDM's best on ImageNet-64 with 256 steps.

    Args:
        model: as in `sample_heun`.
        x: as in `sample_heun`.
        sigmas: as in `sample_heun`.
        extra_args: as in `sample_heun`.
        callback: as in `sample_heun`; x is then the state at sigma_hat, after the added noise.
        disable: as in `sample_heun`.
        S_churn: total amount of churn, >= 0; 0 is `sample_heun`.
        S_min: lowest level with churn.
        S_max: highest level with churn.
        S_noise: standard deviation of the fresh noise.
        noise_sampler: called as noise_sampler(sigma, sigma_to) with numbers on the CPU, returns
            unit noise of x's shape.
        generator: draws the noise if there is no noise_sampler; None is PyTorch's global one.
        correct: as in `sample_heun`; before the churn of the step.

    Raises:
        ValueError: for bad sigmas or churn options.

    Source: Karras et al. 2022, Algorithm 2.
    """
    levels = checked_sigmas(sigmas)
    draw = noise_sampler or GeneratorNoise(as_state(x), generator)

    def noise(i: int) -> Tensor:
        return draw(on_cpu(levels[i]), on_cpu(levels[i + 1]))

    churn = Churn(noise, len(levels) - 1, S_churn, S_min, S_max, S_noise)
    return sample_ode(Heun(), model, x, levels, extra_args, callback, disable, churn, correct)


def sample_ode(
    solver: Solver,
    model: Any,
    x: Tensor,
    sigmas: Tensor | Iterable[float],
    extra_args: Mapping[str, Any] | None,
    callback: Callback | None,
    disable: bool | None,
    churn: Churn | None = None,
    correct: Correct | None = None,
) -> Tensor:
    """Images at sigmas[-1] by any solver; the other arguments are those of `sample_heun`."""
    from tqdm.auto import tqdm

    levels = checked_sigmas(sigmas)

    def denoise(x: Tensor, sigma: Any, labels: Tensor | None = None, /) -> Tensor:
        return model(x, level_for(model, sigma, x), **(extra_args or {}))

    def before_step(i: int, x: Tensor, sigma: float) -> tuple[Tensor, float]:
        x = correct(i, x) if correct is not None and i > 0 else x
        return (x, sigma) if churn is None else churn(i, x, sigma)

    perturb = churn if correct is None else before_step
    with tqdm(total=len(levels) - 1, disable=disable) as bar:

        def after_step(info: dict[str, Any]) -> None:
            bar.update()
            if callback is not None:
                i, x, sigma_hat = info["i"], info["x"], info["sigma"]
                sigma, raised = x.new_full((), levels[i]), x.new_full((), sigma_hat)
                callback(report(x, i, sigma, raised, info["denoised"]))

        end = solve(denoise, as_state(x), levels, solver, callback=after_step, perturb=perturb)
    return end.to(x.dtype)
