"""What a scheduler's options of diffusers say about the network that was trained with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..models.configs import ADMConfig
from ..noise_embeddings import DiscreteTime
from ..precond import CM, EDM, Epsilon, Inner, Plain, Preconditioning, VPrediction
from ..sigmas import SIGMA_MAX, SIGMA_MIN

# Options that say how to sample, not what the network means.
_SAMPLING = """
    algorithm_type clip_denoised clip_sample clip_sample_range disable_corrector
    dynamic_thresholding_ratio euler_at_final final_sigmas_type flow_shift gamma interpolation_type
    lambda_min_clipped lower_order_final predict_x0 rho s_noise sample_max_value set_alpha_to_one
    sigma_schedule skip_prk_steps solver_order solver_p solver_type steps_offset thresholding
    time_shift_type timestep_spacing use_beta_sigmas use_dynamic_shifting use_exponential_sigmas
    use_karras_sigmas use_lu_lambdas variance_type
"""
_LEVELS = {"sigma_min": SIGMA_MIN, "sigma_max": SIGMA_MAX, "sigma_data": 0.5}
_BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "timestep_type": "discrete",
}
# Options that matter, with their defaults, by class.
_CONSISTENCY: dict[str, dict[str, Any]] = {
    "CMStochasticIterativeScheduler": {"num_train_timesteps": 40, **_LEVELS},
    "CTMScheduler": {"num_train_timesteps": 40, "kind": None, "preconditioning": None, **_LEVELS},
}
_EDM: dict[str, dict[str, Any]] = {
    name: {"num_train_timesteps": 1000, "prediction_type": "epsilon", **_LEVELS}
    for name in ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
}
_DISCRETE: dict[str, dict[str, Any]] = {
    "DDPMScheduler": _BETAS,
    "DDPMParallelScheduler": _BETAS,
    "DDIMScheduler": _BETAS,
    "DDIMParallelScheduler": _BETAS,
    "PNDMScheduler": _BETAS,
    "DPMSolverMultistepScheduler": _BETAS,
    "DPMSolverSinglestepScheduler": _BETAS,
    "UniPCMultistepScheduler": _BETAS,
    "DEISMultistepScheduler": _BETAS,
    "EulerDiscreteScheduler": _BETAS,
    "EulerAncestralDiscreteScheduler": _BETAS,
    "LMSDiscreteScheduler": _BETAS,
    "HeunDiscreteScheduler": {**_BETAS, "beta_start": 0.00085, "beta_end": 0.012},
}
SCHEDULERS = {**_CONSISTENCY, **_EDM, **_DISCRETE}
_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
# Of a variance-preserving process with unit noise: c_in is 1/sqrt(sigma^2 + 1) for all three.
_PREDICTIONS: dict[str, Inner] = {
    "epsilon": Epsilon(),
    "v_prediction": VPrediction(),
    "sample": Plain(sigma_data=1.0),
}


@dataclass(frozen=True)
class Role:
    """What a network's output means, and for which noise levels."""

    kind: str  # denoiser or consistency
    precond: Preconditioning
    sigma_min: float
    sigma_max: float


def from_scheduler(options: Mapping[str, Any]) -> Role:
    """Role of a network from its scheduler's options.

    Args:
        options: as in scheduler_config.json; `_class_name` is looked up in `SCHEDULERS`.

    Raises:
        ValueError: for a class, an option or a value that is not supported; each is named.
    """
    name = options.get("_class_name")
    if not isinstance(name, str) or name not in SCHEDULERS:
        raise ValueError(
            f"the scheduler {name!r} is not supported; supported are {sorted(SCHEDULERS)}"
        )
    given = {key: value for key, value in options.items() if not key.startswith("_")}
    chosen = {key: given.pop(key, usual) for key, usual in SCHEDULERS[name].items()}
    # What a later version adds is off where it is None or False.
    unknown = [
        f"{key}={value!r}"
        for key, value in given.items()
        if key not in _SAMPLING.split() and value not in (None, False)
    ]
    if unknown:
        raise ValueError(f"options of {name} are not supported: {', '.join(sorted(unknown))}")
    try:
        return _discrete(chosen) if name in _DISCRETE else _continuous(chosen, name in _EDM)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def without_scheduler(config: ADMConfig, kind: str | None) -> tuple[Role, str]:
    """(role of a network that comes without a scheduler, a sentence about it).

    Networks with resampling blocks and scale-and-shift norms are taken for openai's, others for
    DDPM's.

    Args:
        config: the network.
        kind: of the model, or None where that is assumed too.
    """
    from_openai = config.adaptive_scale and config.resampling == "block"
    chosen = kind or ("consistency" if from_openai else "denoiser")
    if chosen == "consistency":
        role, what = _continuous(_LEVELS, False), "a consistency model of openai's"
    elif from_openai:
        role, what = _continuous(_LEVELS, False), "an EDM denoiser of openai's consistency models"
        role = Role(chosen, Preconditioning(EDM(), noise_embedding="log_250"), *_ends(role))
    else:
        role, what = _discrete(_BETAS), "a DDPM (linear schedule, 1000 steps, epsilon)"
    return role, f"there is no scheduler: taken for {what}; override with kind or precond"


def of_kind(role: Role, kind: str) -> Role:
    """The role with another kind; the teacher of a consistency model has EDM's scalings."""
    precond, inner = role.precond, role.precond.inner
    if isinstance(inner, CM) and kind == "denoiser":
        precond = Preconditioning(EDM(inner.sigma_data), precond.outer, precond.noise_embedding)
    return Role(kind, precond, *_ends(role))


def _ends(role: Role) -> tuple[float, float]:
    return role.sigma_min, role.sigma_max


def _continuous(chosen: Mapping[str, Any], edm: bool) -> Role:
    """A network whose levels lie between sigma_min and sigma_max; openai's, or EDM's own."""
    low, high, data = (_number(chosen, name) for name in ("sigma_min", "sigma_max", "sigma_data"))
    if not 0 < low < high:
        raise ValueError(f"need 0 < sigma_min < sigma_max, got {low} and {high}")
    if data <= 0:
        raise ValueError(f"sigma_data must be positive, got {data}")
    if edm:
        _choice(chosen, "prediction_type", ("epsilon",))
        return Role("denoiser", Preconditioning(EDM(data)), low, high)
    if chosen.get("kind") is not None:
        _choice(chosen, "kind", ("consistency",))
    precond = Preconditioning(CM(data, low), noise_embedding="log_250")
    if chosen.get("preconditioning") is not None:
        precond = _preconditioning(chosen["preconditioning"])
    return Role("consistency", precond, low, high)


def _preconditioning(value: Any) -> Preconditioning:
    try:
        return Preconditioning.from_json(value)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"preconditioning={value!r} cannot be read: {error}") from None


def _discrete(chosen: Mapping[str, Any]) -> Role:
    """A network that is told the index of a level in a table made from betas."""
    schedule = _SCHEDULES[_choice(chosen, "beta_schedule", tuple(_SCHEDULES))]
    inner = _PREDICTIONS[_choice(chosen, "prediction_type", tuple(_PREDICTIONS))]
    _choice(chosen, "timestep_type", ("discrete",))
    steps = chosen["num_train_timesteps"]
    if type(steps) is not int:
        raise ValueError(f"num_train_timesteps must be an integer, got {steps!r}")
    betas = (
        {}
        if schedule == "cosine"
        else {name: _number(chosen, name) for name in ("beta_start", "beta_end")}
    )
    time = DiscreteTime(schedule, steps, **betas)
    precond = Preconditioning(inner, noise_embedding=time)
    return Role("denoiser", precond, time.sigma_min, time.sigma_max)


def _choice(chosen: Mapping[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    value = chosen[name]
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}={value!r} is not supported; supported are {allowed}")
    return value


def _number(chosen: Mapping[str, Any], name: str) -> float:
    value = chosen[name]
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)
