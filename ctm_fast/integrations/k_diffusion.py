"""Door of crowsonkb/k-diffusion: `sample_*` with its arguments and its callback.

The model is called as model(x, sigma, **extra_args), sigma (batch,), and returns denoised images.
x comes in scaled by sigmas[0] and is never rescaled. The state is float32, or float64 for float64
x; the model and the result have the dtype of x.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..sampler.gamma import sample_gamma as jump_gamma
from ..sampler.jumps import Callback, as_state, on_cpu, report
from ..sampler.multistep import sample_cm_multistep as jump_cm_multistep
from ..sampler.ode import sample_ode
from ..sampler.seeding import NoiseSampler
from ..sampler.step_tables import checked_sigmas, jump_sigmas
from ..solvers import Churn, Euler, Heun, Solver
from .hosts import HostModel, sampling
from .noise import EveryStep, each

Sigmas = Tensor | Iterable[float]
Extra = Mapping[str, Any] | None


def sample_euler(
    model: Any,
    x: Tensor,
    sigmas: Sigmas,
    extra_args: Extra = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    *,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Images at sigmas[-1] by Euler's method, shape and dtype of x; see `sample_heun`."""
    churn = (s_churn, s_tmin, s_tmax, s_noise)
    return solved(Euler(), model, x, sigmas, extra_args, callback, disable, churn, noise_sampler)


def sample_heun(
    model: Any,
    x: Tensor,
    sigmas: Sigmas,
    extra_args: Extra = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    *,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Images at sigmas[-1] by Heun's method, shape and dtype of x.

    Args:
        model: called as model(x, sigma, **extra_args); put into eval mode meanwhile.
        x: (batch, ...) noise, already scaled by sigmas[0].
        sigmas: (steps + 1,) decreasing; the last one may be 0.
        extra_args: passed on to the model.
        callback: called at every step with the keys x, i, sigma, sigma_hat and denoised.
        disable: of the progress bar; None shows it on a terminal only.
        s_churn: amount of EDM's churn; without it nothing is drawn.
        s_tmin: lowest level with churn.
        s_tmax: highest level with churn.
        s_noise: standard deviation of the churn noise.
        noise_sampler: called as noise_sampler(sigma, sigma_next), returns unit noise like x; by
            default the global generator, as k-diffusion.

    Raises:
        ValueError: for bad sigmas or churn options.
    """
    churn = (s_churn, s_tmin, s_tmax, s_noise)
    return solved(Heun(), model, x, sigmas, extra_args, callback, disable, churn, noise_sampler)


def sample_euler_ancestral(
    model: Any,
    x: Tensor,
    sigmas: Sigmas,
    extra_args: Extra = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Images at sigmas[-1] by Euler steps that go too far down and add noise; see `sample_heun`.

    A step to t' goes to sqrt(t'^2 - u^2) and adds noise of standard deviation s_noise u, with
    u = min(t', eta t' sqrt(t^2 - t'^2) / t).

    Args:
        model: as in `sample_heun`, also x, sigmas, extra_args, callback and disable.
        x: as in `sample_heun`.
        sigmas: as in `sample_heun`.
        extra_args: as in `sample_heun`.
        callback: as in `sample_heun`.
        disable: as in `sample_heun`.
        eta: >= 0; 0 is `sample_euler`.
        s_noise: standard deviation of the noise in units of u.
        noise_sampler: as in `sample_heun`.

    Raises:
        ValueError: for bad sigmas.
    """
    from tqdm.auto import trange

    levels, net = checked_sigmas(sigmas), casting(model, x)
    draw = noise_sampler or each(torch.randn_like, x)
    state = as_state(x)
    with sampling(model):
        for i in trange(len(levels) - 1, disable=disable):
            t, t_next = levels[i], levels[i + 1]
            up = min(t_next, eta * t_next * math.sqrt(t**2 - t_next**2) / t)
            down = math.sqrt(t_next**2 - up**2)
            denoised = net(state, state.new_full((len(state),), t), **(extra_args or {}))
            if callback is not None:
                here = state.new_full((), t)
                callback(report(state, i, here, here, denoised))
            state = torch.lerp(denoised, state, down / t)
            if up > 0:
                noise = draw(on_cpu(t), on_cpu(t_next)).to(state.dtype)
                state = state + s_noise * up * noise
    return state.to(x.dtype)


def sample_exact(
    model: Any,
    x: Tensor,
    sigmas: Sigmas,
    extra_args: Extra = None,
    callback: Callback | None = None,
    disable: bool | None = None,
) -> Tensor:
    """Images at the last positive level by deterministic jumps; see `sample_gamma`."""
    return sample_gamma(model, x, sigmas, extra_args, callback, disable, gamma=0.0)


def sample_gamma(
    model: Any,
    x: Tensor,
    sigmas: Sigmas,
    extra_args: Extra = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    gamma: float = 0.5,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Images at the last positive level by CTM's gamma-sampling, shape and dtype of x.

    Args:
        model: trajectory model with .jump(x, sigma, sigma_to, **extra_args), such as a
            `ctm_fast.Denoiser`.
        x: as in `sample_heun`, also sigmas, extra_args, callback and disable.
        sigmas: as in `sample_heun`; a final 0 is left out.
        extra_args: as in `sample_heun`.
        callback: as in `sample_heun`; denoised is the point landed on.
        disable: as in `sample_heun`.
        gamma: in [0, 1], share of noise that is drawn anew.
        noise_sampler: as in `sample_heun`.

    Raises:
        ValueError: for bad sigmas or gamma, or a model that does not jump.
    """
    draw = noise_sampler or each(torch.randn_like, x)
    with sampling(model):
        return jump_gamma(
            casting(model, x),
            x,
            sigmas,
            extra_args,
            callback,
            disable,
            gamma=gamma,
            noise_sampler=draw,
        )


def sample_cm_multistep(
    model: Any,
    x: Tensor,
    sigmas: Sigmas,
    extra_args: Extra = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Images of a consistency model: jump to the end, add noise, jump again; dtype of x.

    Args:
        model: called as model(x, sigma, **extra_args), returns the images at the end; or a
            model with .jump.
        x: as in `sample_heun`, also sigmas, extra_args, callback and disable.
        sigmas: as in `sample_heun`; a final 0 is left out, and the level before it is where the
            model's jumps end.
        extra_args: as in `sample_heun`.
        callback: as in `sample_heun`; denoised is the point landed on.
        disable: as in `sample_heun`.
        noise_sampler: as in `sample_heun`.

    Raises:
        ValueError: for bad sigmas, or a model that says it does not jump.
    """
    levels = jump_sigmas(sigmas)
    draw = noise_sampler or each(torch.randn_like, x)
    with sampling(model):
        net = casting(model, x, levels[-1])
        return jump_cm_multistep(net, x, levels, extra_args, callback, disable, noise_sampler=draw)


def sample_onestep(
    model: Any,
    x: Tensor,
    sigmas: Sigmas,
    extra_args: Extra = None,
    callback: Callback | None = None,
    disable: bool | None = None,
) -> Tensor:
    """Images of a consistency model by one call at sigmas[0]; see `sample_cm_multistep`."""
    levels = jump_sigmas(sigmas)
    return sample_cm_multistep(model, x, [levels[0], levels[-1]], extra_args, callback, disable)


def solved(
    solver: Solver,
    model: Any,
    x: Tensor,
    sigmas: Sigmas,
    extra_args: Extra,
    callback: Callback | None,
    disable: bool | None,
    churn: tuple[float, float, float, float],
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Images at sigmas[-1] by any solver; churn is (s_churn, s_tmin, s_tmax, s_noise)."""
    levels = checked_sigmas(sigmas)
    draw = noise_sampler or EveryStep(torch.randn_like, x, levels)

    def noise(i: int) -> Tensor:
        return draw(on_cpu(levels[i]), on_cpu(levels[i + 1]))

    raised = Churn(noise, len(levels) - 1, *churn) if churn[0] else None
    with sampling(model):
        net = casting(model, x)
        return sample_ode(solver, net, x, levels, extra_args, callback, disable, raised)


def casting(model: Any, x: Tensor, sigma_min: float | None = None) -> Any:
    """The model, called in the dtype of x; a consistency model if it has no jump but an end."""
    if isinstance(model, Denoiser):
        return model

    def denoise(state: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        return model(state.to(x.dtype), sigma.to(x.dtype), **extra)

    def jump(state: Tensor, sigma: Tensor, sigma_to: Tensor, **extra: Any) -> Tensor:
        return model.jump(state.to(x.dtype), sigma.to(x.dtype), sigma_to.to(x.dtype), **extra)

    own = getattr(model, "kind", None)
    if hasattr(model, "jump"):
        return HostModel(denoise, own or "trajectory", getattr(model, "sigma_min", 0.0), jump)
    kind = own or ("denoiser" if sigma_min is None else "consistency")
    return HostModel(denoise, kind, sigma_min or 0.0)
