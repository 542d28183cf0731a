"""Which sampling methods a model allows, and the levels a sampler with given options visits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..inference.buckets import LARGEST, bucket_sizes
from ..sigmas import RHO
from ..solvers import Churn
from .engine import freezable
from .jumps import check_jumps
from .methods import JUMP_METHODS, METHODS, ODE_METHODS, PHASED
from .multistep import RENOISE
from .phased import phase_levels
from .step_tables import (
    SAME_LEVEL,
    checked_sigmas,
    cm_landings,
    exact_landings,
    gamma_landings,
    jump_sigmas,
    renoise_stds,
    sampling_sigmas,
)

ODE_STEPS = 18  # what EDM uses on CIFAR-10: 35 network calls
COMPUTE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
STATE_DTYPES = (torch.float32, torch.float64)


def check_options(sampler: Any) -> None:
    """Raise ValueError for an option of a sampler that is out of range by itself."""
    rho, size, gamma = sampler.rho, sampler.batch_size, sampler.gamma
    if rho is not None and (not math.isfinite(rho) or rho <= 0):
        raise ValueError(f"rho is {rho}; it must be positive")
    _choice("latents", sampler.latents, ("scaled", "unit"))
    _choice("state_dtype", sampler.state_dtype, STATE_DTYPES)
    _choice("dtype", sampler.dtype, (None, *COMPUTE_DTYPES))
    if sampler.dtype is not None and not hasattr(sampler.model, "dtype"):
        raise ValueError(f"dtype={sampler.dtype} needs a model with a dtype attribute (Denoiser)")
    if size is not None and size < 1:
        raise ValueError(f"batch_size is {size}; it must be at least 1")
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}; it must lie in [0, 1]")


def _choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; choose from {allowed}")


def steps_of(steps: int | None, sigmas: Any) -> int | None:
    """Steps that are asked for, by their number or by levels that can be counted."""
    if steps is not None or not hasattr(sigmas, "__len__") or len(sigmas) < 2:
        return steps
    return len(sigmas) - 1 - (float(sigmas[-1]) == 0)


def resolve_method(kind: str, method: str | None, steps: int | None, gamma: float) -> str:
    """Method of a model of this kind: the given one, or the kind's default.

    Raises:
        ValueError: for an unknown method or one that this kind cannot do.
    """
    if method is not None and method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {METHODS}")
    if method == PHASED and kind in ("trajectory", "denoiser"):
        other = "exact" if kind == "trajectory" else "euler"
        raise ValueError(f"method 'phased' needs a consistency model, not a {kind}; use {other!r}")
    if kind == "trajectory":
        return method or ("gamma" if gamma > 0 else "exact")
    if kind == "consistency":
        if method in ODE_METHODS:
            raise ValueError(
                f"method {method!r} solves an ODE and needs a model that denoises; a consistency "
                "model takes 'onestep', 'cm_multistep' or 'phased'"
            )
        return method or ("onestep" if steps in (None, 1) else "cm_multistep")
    if kind == "denoiser":
        if method in JUMP_METHODS:
            raise ValueError(
                f"method {method!r} needs a model that jumps, and this one only denoises; use "
                f"one of {ODE_METHODS}, or distil it into a trajectory model first"
            )
        return method or "heun"
    raise ValueError(
        f"the model's kind is {kind!r}; need 'denoiser', 'consistency' or 'trajectory'"
    )


def resolve_sigmas(
    model: Any,
    method: str,
    steps: int | None,
    sigmas: Iterable[float] | Tensor | None,
    rho: float | None,
) -> list[float]:
    """Levels that the sampler visits, decreasing.

    Without `sigmas` they are Karras levels; without `rho` either, a wrapped callable whose host
    takes equal steps of its own time takes them too. Heun steps do not: over ratios like those of
    its first step they would diverge.

    Raises:
        ValueError: for bad levels, levels outside the network's range, or steps that contradict
            the levels.
    """
    if sigmas is None:
        if method == "jumps":
            raise ValueError("method 'jumps' needs sigmas and landings")
        steps = (ODE_STEPS if method in ODE_METHODS else 1) if steps is None else steps
        low, high = model.sigma_min, model.sigma_max
        if method in ODE_METHODS:
            low, high = getattr(model, "ode_range", (low, high))
        levels = sampling_sigmas(method, steps, low, high, rho or RHO, model.kind).tolist()
        if rho is None and method in (*JUMP_METHODS, "euler") and hasattr(model, "even_sigmas"):
            even = model.even_sigmas(steps)
            if even is not None:
                last = levels[-1]
                levels = even.tolist()
                levels[-1] = 0.0 if last == 0 else levels[-1]
        return levels
    levels = jump_sigmas(sigmas) if method in JUMP_METHODS else checked_sigmas(sigmas)
    if steps is not None and steps != len(levels) - 1:
        raise ValueError(f"sigmas has {len(levels) - 1} steps but steps={steps}; give one of them")
    if method == "onestep" and len(levels) != 2:
        raise ValueError(f"method 'onestep' takes two sigmas, got {levels}; use 'cm_multistep'")
    check_range(model, levels)
    return levels


def resolve_phases(
    model: Any, method: str, edges: Iterable[float] | None, eta: float | None, sigmas: Any
) -> tuple[tuple[float, ...] | None, float | None, Any]:
    """Edges between the phases (decreasing), eta and the levels of a sampler; None elsewhere.

    Raises:
        ValueError: for either with another method, neither edges nor levels, edges that contradict
            the levels, or a bad eta.
    """
    if method != PHASED:
        if edges is not None or eta is not None:
            raise ValueError(
                f"edges={edges}, eta={eta} with method {method!r}; they belong to 'phased'"
            )
        return None, None, sigmas
    given = None if sigmas is None else checked_sigmas(sigmas)
    if edges is not None:
        between = sorted((float(edge) for edge in edges), reverse=True)
        implied = checked_sigmas([float(model.sigma_max), *between, 0.0], "edges, and both ends,")
        if given is not None and given[1:-1] != between:
            raise ValueError(f"edges={between} and sigmas={given} contradict; give one of them")
        given = given or implied
    if given is None:
        raise ValueError("method 'phased' needs edges=, the levels between its phases, or sigmas=")
    eta = 1.0 if eta is None else float(eta)
    phase_levels(given, eta)
    return tuple(given[1:-1]), eta, given


def resolve_renoise(method: str, renoise: str | None) -> str | None:
    """Where the jumps of "cm_multistep" are taken to end; None for other methods.

    Raises:
        ValueError: for another word, or one with a method that does not add noise in this way.
    """
    if method != "cm_multistep":
        if renoise is not None:
            raise ValueError(
                f"renoise={renoise!r} with method {method!r}; it belongs to 'cm_multistep'"
            )
        return None
    _choice("renoise", renoise, (None, *RENOISE))
    return renoise or RENOISE[0]


def check_range(model: Any, levels: list[float]) -> None:
    """Raise ValueError unless all levels but a final 0 lie in the network's range."""
    low, high = float(model.sigma_min), float(model.sigma_max)
    for level in levels[: -1 if levels[-1] == 0 else None]:
        if not low * (1 - SAME_LEVEL) <= level <= high * (1 + SAME_LEVEL):
            raise ValueError(f"sigma {level} is outside the network's range [{low}, {high}]")


def resolve_landings(
    model: Any,
    method: str,
    sigmas: list[float],
    gamma: float,
    landings: Iterable[float] | None,
) -> list[float] | None:
    """Levels that the jumps land on, or None for an ODE method.

    Raises:
        ValueError: for options that the method does not use, bad landings, or jumps that the
            model cannot make.
    """
    if gamma != 0 and method != "gamma":
        raise ValueError(f"gamma={gamma} has no effect with method {method!r}; use method='gamma'")
    if (landings is not None) != (method == "jumps"):
        raise ValueError(f"landings={landings} with method {method!r}; they belong to 'jumps'")
    if method not in JUMP_METHODS:
        return None
    if landings is not None:
        chosen = [float(landing) for landing in landings]
        renoise_stds(sigmas, chosen)
    elif method == "gamma":
        chosen = gamma_landings(sigmas, gamma)
    elif method == "cm_multistep":
        chosen = cm_landings(sigmas)
    else:
        chosen = exact_landings(sigmas)
    check_range(model, chosen)
    check_jumps(model, chosen)
    return chosen


def resolve_engine(
    model: Any,
    freeze: bool | None,
    graphs: bool | None,
    sizes: Iterable[int] | None,
    batch_size: int | None,
) -> tuple[bool, tuple[int, ...] | None]:
    """Whether to run a frozen copy of the model, and the batch sizes that graphs are made for.

    Raises:
        ValueError: for a model that cannot be frozen but should be, graphs of one that is not
            frozen or that no graph can hold, or bucket sizes below 1, above `batch_size` or
            without graphs.
    """
    if freeze and not freezable(model):
        raise ValueError(
            f"freeze=True needs a Denoiser with a network of ctm_fast.models, not a "
            f"{type(model).__name__} of {type(getattr(model, 'net', None)).__name__}"
        )
    freeze = freezable(model) if freeze is None else freeze
    why_eager = str(getattr(model, "eager", ""))
    if graphs and why_eager:
        raise ValueError(f"graphs=True is impossible here: {why_eager}")
    if graphs and not freeze:
        raise ValueError("graphs=True needs a frozen model; its own weights may move in memory")
    if graphs is False or not freeze or why_eager:
        if sizes is not None:
            raise ValueError(f"buckets={sizes} without graphs; they are the sizes of graphs")
        return freeze, None
    if sizes is None:
        return freeze, bucket_sizes(batch_size or LARGEST)
    chosen = tuple(sorted({int(size) for size in sizes}))
    if not chosen or chosen[0] < 1 or (batch_size is not None and chosen[-1] > batch_size):
        raise ValueError(
            f"buckets are {chosen}; need at least one, all from 1 to batch_size={batch_size}"
        )
    return freeze, chosen


def resolve_churn(method: str, options: dict[str, float | None]) -> dict[str, float | None]:
    """Churn options with the defaults of `Churn` filled in; all None for other methods.

    Raises:
        ValueError: for bad options, or any with a method that does not churn.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if method != "churn":
        if given:
            raise ValueError(f"{given} with method {method!r}; these belong to method 'churn'")
        return options
    full = {name: given.get(name, getattr(Churn, name)) for name in options}
    if not all(value >= 0 for value in full.values()) or full["S_min"] > full["S_max"]:
        raise ValueError(f"need S_churn, S_min, S_noise >= 0 and S_min <= S_max; got {full}")
    return dict(full)
