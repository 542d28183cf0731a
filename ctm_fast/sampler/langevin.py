"""Langevin corrections between the steps of a sampler.

Song et al. 2021 (score SDE, arXiv:2011.13456), Algorithm 4; step sizes per image as in CTM's code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from .jumps import level_for, on_cpu
from .methods import ODE_METHODS, OWN
from .seeding import NoiseSampler, SeededNoise
from .step_tables import checked_sigmas

SNR = 0.16
CORRECTABLE = ("exact", "gamma", "cm_multistep", "jumps", *ODE_METHODS)


def corrected(x: Tensor, score: Tensor, noise: Tensor, snr: float = SNR) -> Tensor:
    """x + h score + sqrt(2 h) noise with h = 2 (snr |noise| / |score|)^2 per image, shape of x.

    One step of Langevin dynamics towards the density with this score, at its own noise level. An
    image whose score is zero stays. For Gaussian data of many pixels the steps lead to a variance
    that is too large by the factor 1 + snr^2: that of unadjusted Langevin dynamics.

    Args:
        x: (batch, ...) states.
        score: gradient of the log density at x, shape of x.
        noise: unit Gaussian, shape of x.
        snr: size of the step, in (0, 1).

    Source: Song et al. 2021, Algorithm 4.
    """
    axes = tuple(range(1, x.ndim))
    length = torch.linalg.vector_norm(score, dim=axes, keepdim=True)
    ratio = torch.linalg.vector_norm(noise, dim=axes, keepdim=True) / length
    root = torch.where(length > 0, snr * ratio, torch.zeros_like(length))
    return x + 2 * root**2 * score + 2 * root * noise


class Langevin:
    """What the sampling functions take as `correct=`: corrections at the levels between steps.

    Called before every step but the first, with the state that the step before has led to; the
    last state, which no step follows, is not corrected, since the noise would stay in it. Each
    correction calls the model once, as a denoiser, so guidance takes part.

    Args:
        model: called as model(x, sigma, **extra_args); a denoiser or trajectory model.
        sigmas: (steps + 1,) levels of the run.
        noise: of the run. `SeededNoise` has streams of their own for corrections; others are
            called with the level as both arguments.
        steps: corrections per level, >= 1.
        snr: as in `corrected`.
        extra_args: passed on to the model, for example {"labels": labels}.

    Raises:
        ValueError: for bad sigmas, steps or snr, or a consistency model, which has no score.
    """

    def __init__(
        self,
        model: Any,
        sigmas: Tensor | Iterable[float],
        noise: NoiseSampler,
        *,
        steps: int = 1,
        snr: float = SNR,
        extra_args: Mapping[str, Any] | None = None,
    ) -> None:
        check_corrector(steps, snr)
        if steps == 0:
            raise ValueError("steps is 0; a corrector takes at least 1")
        if getattr(model, "kind", None) == "consistency":
            raise ValueError("Langevin corrections need a score, and a consistency model has none")
        self.model, self.sigmas, self.noise = model, checked_sigmas(sigmas), noise
        self.steps, self.snr, self.extra_args = int(steps), float(snr), dict(extra_args or {})

    def __call__(self, i: int, x: Tensor) -> Tensor:
        """The state x before step i, corrected at level sigmas[i]; shape of x."""
        sigma = self.sigmas[i]
        for again in range(self.steps):
            denoised = self.model(x, level_for(self.model, sigma, x), **self.extra_args)
            score = (denoised - x) / sigma**2
            x = corrected(x, score, self._unit(i, again).to(x), self.snr)
        return x

    def _unit(self, i: int, again: int) -> Tensor:
        if isinstance(self.noise, SeededNoise):
            return self.noise.corrector(i, again)
        level = on_cpu(self.sigmas[i])
        return self.noise(level, level)


def check_corrector(steps: int, snr: float) -> None:
    """Raise ValueError unless steps is an integer >= 0 and 0 < snr < 1."""
    if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 0:
        raise ValueError(f"corrector_steps is {steps!r}; it must be an integer, at least 0")
    if not math.isfinite(snr) or not 0 < snr < 1:
        raise ValueError(f"snr is {snr}; it must lie in (0, 1)")


def resolve_corrector(
    kind: str, method: str, sigmas: Sequence[float], steps: int, snr: float | None
) -> float | None:
    """The snr of a sampler's corrections; None without any.

    Raises:
        ValueError: for bad options, an snr without corrections, or corrections where there is no
            score or no level between two steps.
    """
    check_corrector(steps, SNR if snr is None else snr)
    if steps == 0:
        if snr is not None:
            raise ValueError(f"snr={snr} without corrections; it belongs to corrector_steps")
        return None
    if kind == "consistency" or method not in CORRECTABLE:
        raise ValueError(
            f"corrector_steps={steps} with method {method!r} of a {kind} model: Langevin "
            f"corrections need a denoiser or trajectory model and one of {CORRECTABLE}"
        )
    if len(sigmas) < 3:
        raise ValueError(f"corrector_steps={steps} with one step: no level lies between two steps")
    return SNR if snr is None else float(snr)


def method_options(
    sampler: Any,
    model: Any,
    sigmas: Sequence[float],
    noise: NoiseSampler,
    extra_args: Mapping[str, Any],
) -> dict[str, Any]:
    """Keywords that a sampler's options are for the function of its method, corrections included.

    Args:
        sampler: a `Sampler`.
        model: what is called; in general a frozen copy of the sampler's own.
        sigmas: (steps + 1,) levels of the run.
        noise: of the run.
        extra_args: passed on to the model.
    """
    options = {name: getattr(sampler, name) for name in OWN.get(str(sampler.method), ())}
    if sampler.snr is not None:
        how: Any = {"steps": sampler.corrector_steps, "snr": sampler.snr, "extra_args": extra_args}
        options["correct"] = Langevin(model, sigmas, noise, **how)
    return options
