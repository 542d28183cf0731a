"""`wrap`: any callable as a `Denoiser`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..denoiser import KINDS as OWN_KINDS
from ..models.unet import UNet
from ..sigmas import SIGMA_MAX, SIGMA_MIN
from .calling import Call, custom_call, signature_call
from .known import RAW, facts, host_class
from .outputs import (
    ALIASES,
    OUTPUTS,
    AverageVelocity,
    Convention,
    Output,
    Rotation,
    State,
    Velocity,
)
from .times import TIMES, ADMTime, Time, TrigFlowTime
from .wrapped import Callee, Wrapped

LOG = logging.getLogger("ctm_fast")
KINDS = {
    "denoiser": "D(x, t), the expected image (or what prediction= says)",
    "consistency": "f(x, t), the image at the end of the trajectory",
    "trajectory": "G(x, t, s), the state at s on the trajectory",
    "velocity": "u(x, t), dx/dt of the probability-flow ODE",
    "average_velocity": "u(x, t, r), (x_t - x_r)/(t - r)",
}
# What a `Denoiser` of each kind can do.
ABILITIES = {"velocity": "denoiser", "average_velocity": "trajectory"}
LABELS = ("int", "onehot")


def wrap(
    net: Any,
    kind: str | None = None,
    time: str | Time | ADMTime | None = None,
    *,
    prediction: str | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    sigma_data: float | None = None,
    shape: Sequence[int] | None = None,
    label_dim: int | None = None,
    labels: str | None = None,
    call: Callable[..., Any] | None = None,
    dtype: torch.dtype | None = None,
) -> Any:
    """Callable of another codebase as a `Denoiser`: everything in sigma, x = x0 + sigma n.

    The state, the time and the answer are converted at every call. What the callable was taken
    for is logged (logger "ctm_fast", INFO) and printed by `repr`; only what is certain from the
    class and the attributes of a network is guessed. A `Denoiser`, or anything with kind,
    sigma_min and sigma_max, comes back unchanged.

    Args:
        net: the callable, for example an `nn.Module`: then it is registered as a submodule, gets
            its inputs in its parameters' dtype and is put into eval mode by a sampler. Arguments
            are given by the names in its signature; see `call`.
        kind: what it computes, a key of KINDS. Known of EDM's and ECT's network classes.
        time: how it is told the noise level, a key of TIMES or an object like theirs:
            edm: sigma, with x itself; the default of denoiser, consistency and trajectory.
            adm: 250 ln(sigma); a raw network F on x/sqrt(sigma^2 + sigma_data^2), whose output is
            scaled as openai/consistency_models and sony/ctm do outside of it. A function that is
            told 250 ln(sigma) but returns images is an edm one, with `call`.
            diffusers: index of DDPM's 1000 linear betas; `DiffusersTime(DiscreteTime(...))` for
            others. y = x/sqrt(1 + sigma^2).
            flow: t in [0, 1], y = (1 - t) x0 + t n, velocity n - x0.
            flow_matching: the library's, y = t x0 + (1 - t) n, velocity x0 - n.
            trigflow: t in [0, pi/2), y = cos(t) x0 + sin(t) sigma_data n; the velocity is sCM's
            F(y/sigma_data, t) with dy/dt = sigma_data F.
        prediction: what a denoiser or consistency callable answers: "image" (default), "epsilon"
            (default of diffusers), "v" (diffusers) or "F" (adm, trigflow, there also for
            trajectories: y_s = cos(t - s) y - sin(t - s) sigma_data F).
        sigma_min: smallest noise level that it is asked for, > 0. By default 0.002, on flow times
            1e-6, of diffusers the first of the table.
        sigma_max: largest one. By default 80, of diffusers the last of the table, on flow times
            1e6: t = 1 is pure noise and no finite sigma; 1e6 is t = 0.999999.
        sigma_data: standard deviation of the training data, of adm and trigflow; default 0.5.
        shape: of one image, (C, H, W), if the network does not say it. Needed to draw noise.
        label_dim: number of classes, if the network does not say it; 0: unconditional.
        labels: how it wants labels, "int" (default) or "onehot" (EDM's classes).
        call: function that calls it, for what the signature does not tell. Has any of the
            parameters net, x, t, s (second time) and labels, for example
            `lambda net, x, t, s: net(x, t, t - s)`.
        dtype: it computes in it, under autocast; see `Denoiser`.

    Returns:
        wrapped: a `Wrapped`, picklable if the callable is.

    Raises:
        ValueError: for unknown names, combinations that mean nothing, a callable whose kind, time
            or arguments are not certain, and options that contradict a `Denoiser`.

    Source: Karras et al. 2022, Section 3; Lu & Song 2024, Appendix B.
    """
    given = {
        "sigma_min": sigma_min,
        "sigma_max": sigma_max,
        "sigma_data": sigma_data,
        "shape": shape,
        "label_dim": label_dim,
        "labels": labels,
        "kind": kind,
        "time": time,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if is_model(net):
        others = {"prediction": prediction, "call": call, "dtype": dtype}
        return _unchanged(net, given | {n: v for n, v in others.items() if v is not None})
    if not callable(net):
        raise ValueError(f"{net!r} cannot be called; need a Denoiser or a callable")
    known = facts(net) | given
    kind = _kind(net, known)
    own_kind = ABILITIES.get(kind, kind)
    clock = _time(net, kind, known)
    convention = _convention(kind, clock, prediction, known)
    low, high = (known.get("sigma_min", clock.range[0]), known.get("sigma_max", clock.range[1]))
    one_hot = _choice("labels", known.get("labels", "int"), LABELS) == "onehot"
    classes, size = _classes(known.get("label_dim", 0)), _shape(known.get("shape"))
    two_times, even = own_kind == "trajectory", getattr(clock, "even", False)
    how: Call = (
        signature_call(net, two_times, classes > 0)
        if call is None
        else custom_call(call, two_times, classes > 0)
    )
    about = (
        f"{_name(net)} as {kind} in {clock.meaning}",
        f"answering {prediction}" if prediction else "",
        f"called as {how}, images {size or 'of unknown shape'}",
        f"{classes} classes as {'one-hot' if one_hot else 'integers'}" if classes else "no classes",
        f"sigma in [{low:g}, {high:g}]",
    )
    wrapped = Wrapped(
        Callee(net, how, two_times, size, classes, one_hot),
        clock.precond(kind, low) if isinstance(clock, ADMTime) else convention,
        kind=own_kind,
        sigma_min=low,
        sigma_max=high,
        dtype=dtype,
        time=clock if even and not isinstance(clock, ADMTime) else None,
        # Flow time is known up to pure noise, where Karras' steps would be wasted.
        ode_range=(
            known.get("sigma_min", max(low, SIGMA_MIN)),
            known.get("sigma_max", min(high, SIGMA_MAX)) if even else high,
        ),
        taken=", ".join(part for part in about if part),
    )
    LOG.info("took %s", wrapped.taken)
    return wrapped


def is_model(net: Any) -> bool:
    """Whether this is a `Denoiser` or has what a sampler needs of one."""
    return all(hasattr(net, name) for name in ("kind", "sigma_min", "sigma_max"))


def _unchanged(model: Any, given: dict[str, Any]) -> Any:
    says = {name: getattr(model, name, None) for name in given}
    if wrong := [name for name in given if name != "kind" or says[name] != given[name]]:
        raise ValueError(
            f"{wrong} given for a {type(model).__name__} of kind {model.kind!r}, which knows its "
            "own conventions; leave them out"
        )
    return model


def _kind(net: Any, known: dict[str, Any]) -> str:
    kinds = "; ".join(f"{name!r}: {meaning}" for name, meaning in KINDS.items())
    if "kind" in known:
        if known["kind"] not in KINDS:
            raise ValueError(f"unknown kind {known['kind']!r}; choose from {kinds}")
        return str(known["kind"])
    if isinstance(net, UNet):
        raise ValueError("a network of ctm_fast.models alone; give Denoiser(net, precond)")
    about = RAW.get(host_class(net), f"{_name(net)}, which is no Denoiser")
    raise ValueError(f"say what this is with kind= ({about}). Kinds are {kinds}")


def _time(net: Any, kind: str, known: dict[str, Any]) -> Time | ADMTime:
    time = known.get("time")
    if time is None:
        if kind not in OWN_KINDS or host_class(net) in RAW:
            about = RAW.get(host_class(net), f"a {kind} has none that is usual")
            raise ValueError(f"say its time convention with time= ({about}): {TIMES.names()}")
        time = "edm"
    if not isinstance(time, str):
        if not hasattr(time, "meaning"):
            raise ValueError(f"time is {time!r}; choose from {TIMES.names()} or give a FlowTime()")
        return time
    sd = {"sigma_data": known["sigma_data"]} if "sigma_data" in known else {}
    made = TIMES[time]
    return made(**sd) if made in (ADMTime, TrigFlowTime) else made()


def _convention(
    kind: str, time: Time | ADMTime, prediction: str | None, known: dict[str, Any]
) -> Convention | None:
    """How the callable is scaled; None for ADM's own preconditioning."""
    name = ALIASES.get(prediction or "", prediction)
    output: Output
    if kind in ABILITIES or (kind == "trajectory" and not isinstance(time, ADMTime)):
        turns = kind == "trajectory" and isinstance(time, TrigFlowTime) and name == "F"
        if name is not None and not turns:
            raise ValueError(f"prediction={prediction!r} means nothing for kind={kind!r}")
        if kind in ABILITIES and not hasattr(time, "velocity"):
            raise ValueError(f"kind={kind!r} means nothing for {time.meaning}")
        own: dict[str, Output] = {"velocity": Velocity(), "average_velocity": AverageVelocity()}
        output = Rotation() if turns else own.get(kind, State())
    elif name is not None and name not in time.predictions:
        raise ValueError(f"prediction is {prediction!r}; {time.meaning} has {time.predictions}")
    else:
        output = OUTPUTS[name or time.predictions[0]]
    if isinstance(time, ADMTime):
        return None
    sigma_data = getattr(time, "sigma_data", known.get("sigma_data", 0.5))
    return Convention(time, output, float(sigma_data))


def _choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; choose from {allowed}")
    return str(value)


def _classes(label_dim: Any) -> int:
    if isinstance(label_dim, bool) or not isinstance(label_dim, int) or label_dim < 0:
        raise ValueError(f"label_dim is {label_dim!r}; it must be an integer, at least 0")
    return label_dim


def _shape(shape: Any) -> tuple[int, ...] | None:
    if shape is None:
        return None
    if isinstance(shape, int) or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(
            f"shape is {shape!r}; it must be positive integers, for example (3, 32, 32)"
        )
    return tuple(shape)


def _name(net: Any) -> str:
    name = getattr(net, "__qualname__", None)
    return name if isinstance(name, str) else host_class(net)
