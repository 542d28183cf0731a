"""Door of openai/consistency_models and sony/ctm: `karras_sample` with their arguments.

The network is called by the host's own `diffusion` object, as model(c_in x, 250 ln sigma, ...), or
is a `ctm_fast.Denoiser`, and then `diffusion` is not used.
Song et al. 2023, arXiv:2303.01469; Kim et al. 2024, arXiv:2310.02279.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..sampler.gamma import sample_exact, sample_gamma
from ..sampler.jumps import Callback, sample_jumps
from ..sampler.multistep import sample_cm_multistep, sample_onestep
from ..sampler.step_tables import two_step
from ..sigmas import karras_sigma, karras_sigmas
from ..solvers import Euler, Heun, Solver
from .hosts import sampling
from .k_diffusion import sample_euler_ancestral, solved
from .karras_models import KarrasDPM, KarrasModel, is_two_time
from .noise import EveryStep, Noise, each

JUMPS = ("onestep", "multistep", "exact", "gamma", "gamma_multistep", "cm_multistep")
SOLVERS: dict[str, Solver] = {
    "heun": Heun(),
    "dpm": KarrasDPM(),
    "euler": Euler(),
    "progdist": Euler(),
}
SAMPLER_NAMES = (*SOLVERS, "ancestral", *JUMPS)


def karras_sample(
    diffusion: Any,
    model: Any,
    shape: Sequence[int],
    steps: int,
    clip_denoised: bool = True,
    progress: bool = False,
    callback: Callback | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    sampler: str = "heun",
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    generator: Any = None,
    ts: Sequence[int] | None = None,
    x_T: Tensor | None = None,
    ctm: bool = False,
    teacher: bool = False,
    clip_output: bool = True,
    train: bool = False,
    ind_1: int = 0,
    ind_2: int = 0,
    gamma: float = 0.5,
    classifier: None = None,
    cg_scale: float = 1.0,
    generator_type: str = "dummy",
    edm_style: bool = False,
    target_snr: float = 0.16,
    langevin_steps: int = 1,
) -> Tensor:
    """Images (batch, C, H, W) in [-1, 1].

    Args:
        diffusion: the host's object with .denoise (openai) or .get_denoised_and_G (sony); None
            for a `Denoiser`.
        model: its network, or a `Denoiser`; put into eval mode meanwhile.
        shape: (batch, C, H, W).
        steps: of the solver or jumps; with ts the number of points of the Karras ramp; for
            "gamma" too.
        clip_denoised: clamp what the network says to [-1, 1] at every call.
        progress: show a bar.
        callback: as in `sample_heun`.
        model_kwargs: passed to the network; y is a `Denoiser`'s labels.
        device: of the noise.
        sigma_min: last level above 0.
        sigma_max: first level.
        rho: spacing of the levels.
        sampler: one of SAMPLER_NAMES.
        s_churn: amount of churn, "heun" and "dpm" only; with s_tmin, s_tmax and s_noise.
        s_tmin: lowest level with churn.
        s_tmax: highest level with churn.
        s_noise: standard deviation of the churn noise.
        generator: as in `Noise`; the host's generators too. None is the global one.
        ts: ascending indices into the Karras ramp of `steps` points, from 0 to steps - 1.
        x_T: first state, already scaled by sigma_max; drawn by default.
        ctm: whether the network is a trajectory model (sony).
        teacher: passed to the network (sony).
        clip_output: clamp the finished images.
        train: used by the host alone.
        ind_1: where "gamma" lands first, an index into the ramp.
        ind_2: where "gamma" jumps from next.
        gamma: share of fresh noise of "gamma_multistep", in [0, 1].
        classifier: classifier guidance, which is not built: must be None.
        cg_scale: of the classifier; like target_snr and langevin_steps not used without one.
        generator_type: "dummy"; for another one pass the generator itself.
        edm_style: another order of noise and jumps, which is not built: must be False.
        target_snr: see cg_scale.
        langevin_steps: see cg_scale.

    Raises:
        ValueError: for an unknown sampler, ts that do not cover the ramp, options that are not
            built or do nothing with this sampler, or a model that does not jump where it must.

    Source: openai/consistency_models `cm/karras_diffusion.py`; sony/ctm `code/cm/sample_util.py`.
    """
    if sampler not in SAMPLER_NAMES:
        raise ValueError(f"unknown sampler {sampler!r}; choose from {SAMPLER_NAMES}")
    _check_built(classifier, edm_style, generator_type, generator)
    if s_churn and sampler not in ("heun", "dpm"):
        raise ValueError(f"s_churn={s_churn} with sampler {sampler!r}; it belongs to 'heun', 'dpm'")
    if sampler == "multistep" and not ts:
        raise ValueError("sampler 'multistep' needs ts, ascending indices from 0 to steps - 1")
    if sampler not in ("multistep", "exact", "cm_multistep", "gamma_multistep") and ts:
        raise ValueError(f"ts={tuple(ts)} has no effect with sampler {sampler!r}")
    source = Noise(generator)
    if x_T is None:
        x_T = source.randn(shape, device) * sigma_max
    elif tuple(x_T.shape) != tuple(shape):
        raise ValueError(f"x_T has shape {tuple(x_T.shape)}; the shape is {tuple(shape)}")
    net = KarrasModel(diffusion, model, model_kwargs or {}, clip_denoised, ctm, teacher, sigma_min)
    ramp = float(getattr(diffusion, "rho", rho)) if sampler == "multistep" else rho
    if ts:
        sigmas = ramp_levels(ts, steps, sigma_min, sigma_max, ramp)
    else:
        two_time = isinstance(model, Denoiser) or is_two_time(diffusion)
        sigmas = levels(sampler, steps, sigma_min, sigma_max, rho, two_time)
    draw = each(source.randn_like, x_T)
    with sampling(model, diffusion):
        common: dict[str, Any] = dict(callback=callback, disable=not progress)
        if sampler in SOLVERS:
            churn = (s_churn, s_tmin, s_tmax, s_noise)
            order = EveryStep(source.randn_like, x_T, sigmas)
            x = solved(
                SOLVERS[sampler],
                *(net, x_T, sigmas, None),
                **common,
                churn=churn,
                noise_sampler=order,
            )
        elif sampler == "ancestral":
            x = sample_euler_ancestral(net, x_T, sigmas, noise_sampler=draw, **common)
        elif sampler == "onestep":
            x = sample_onestep(net, x_T, sigmas, **common)
        elif sampler in ("multistep", "cm_multistep"):
            x = sample_cm_multistep(net, x_T, sigmas, noise_sampler=draw, **common)
        elif sampler == "exact":
            x = sample_exact(net, x_T, sigmas, **common)
        elif sampler == "gamma_multistep":
            x = sample_gamma(net, x_T, sigmas, gamma=gamma, noise_sampler=draw, **common)
        else:
            ends, landings = two_step(ind_1, ind_2, steps, sigma_min, sigma_max, rho)
            x = sample_jumps(net, x_T, ends, landings=landings, noise_sampler=draw, **common)
    return x.clamp(-1, 1) if clip_output else x


def levels(
    sampler: str, steps: int, sigma_min: float, sigma_max: float, rho: float, two_time: bool
) -> list[float]:
    """Noise levels of a sampler without ts, decreasing.

    Args:
        sampler: one of SAMPLER_NAMES.
        steps: as in `karras_sample`.
        sigma_min: last level above 0.
        sigma_max: first level.
        rho: spacing.
        two_time: whether the host is sony/ctm, whose "euler" has one level more.
    """
    if sampler in ("onestep", "gamma"):
        return [float(sigma_max), float(sigma_min)]
    hops = sampler in (*JUMPS, "progdist") or (sampler == "euler" and two_time)
    points = steps + 1 if hops else steps
    if points < 2:
        return [float(sigma_max), 0.0]
    grid = karras_sigmas(points, sigma_min, sigma_max, rho).tolist()
    return grid if sampler in (*JUMPS, "progdist") else [*grid, 0.0]


def ramp_levels(
    ts: Sequence[int], steps: int, sigma_min: float, sigma_max: float, rho: float
) -> list[float]:
    """Noise levels at indices into the Karras ramp of `steps` points.

    Raises:
        ValueError: unless the indices ascend from 0 to steps - 1.
    """
    indices = [int(t) for t in ts]
    ascending = all(a < b for a, b in pairwise(indices))
    if len(indices) < 2 or not ascending or indices[0] != 0 or indices[-1] != steps - 1:
        raise ValueError(
            f"ts is {indices}; with steps={steps} it must ascend from 0 (sigma {sigma_max}) to "
            f"{steps - 1} (sigma {sigma_min}), or the images keep noise"
        )
    position = torch.tensor(indices, dtype=torch.float64) / (steps - 1)
    return karras_sigma(position, sigma_min, sigma_max, rho).tolist()


def _check_built(classifier: Any, edm_style: bool, generator_type: str, generator: Any) -> None:
    if classifier is not None:
        raise ValueError(
            "classifier guidance is not built into these host samplers; use "
            "ctm_fast.Sampler(model, classifier=...), or call with classifier=None"
        )
    if edm_style:
        raise ValueError("edm_style=True is not built; use sampler='gamma_multistep' without it")
    if generator_type != "dummy" and generator is None:
        raise ValueError(
            f"generator_type={generator_type!r} makes a generator of the host; pass it as "
            "generator=get_generator(...)"
        )
