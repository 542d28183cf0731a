"""How a callable wants its arguments, read from its signature."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, Protocol

import torch
from torch import Tensor, nn

# Parameter names of EDM, ADM, diffusers, flow_matching, MeanFlow, FastGen and CTM code.
NAMES = {
    "x": ("x", "x_t", "xt", "sample", "z", "z_t", "latents", "images", "noisy"),
    "t": ("t", "sigma", "timestep", "timesteps", "time", "sigmas", "noise_level", "c_noise"),
    "s": ("s", "r", "s_timestep", "r_timestep", "sigma_to", "t_next", "c_noise_to"),
    "labels": ("class_labels", "labels", "y", "label", "condition", "classes", "cond"),
}
POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
CUSTOM = ("net", "x", "t", "s", "labels")
HELP = "say how with call=, for example call=lambda net, x, t, labels: net(x, t, labels)"


class Call(Protocol):
    """Calls a network the way it wants to be called."""

    def __call__(
        self, net: Callable[..., Any], x: Tensor, t: Tensor, s: Tensor | None, labels: Any
    ) -> Any:
        """What the network answers."""
        ...


@dataclass(frozen=True)
class SignatureCall:
    """Arguments by position, then by name."""

    positions: tuple[str, ...]  # keys of NAMES
    keywords: tuple[tuple[str, str], ...]  # (key of NAMES, parameter name)

    def __call__(
        self, net: Callable[..., Any], x: Tensor, t: Tensor, s: Tensor | None, labels: Any
    ) -> Any:
        """What the network answers."""
        given = {"x": x, "t": t, "s": s, "labels": labels}
        named = {name: given[role] for role, name in self.keywords}
        return net(*(given[role] for role in self.positions), **named)

    def __str__(self) -> str:
        named = [f"{name}={role}" for role, name in self.keywords]
        return f"net({', '.join([*self.positions, *named])})"


@dataclass(frozen=True)
class CustomCall:
    """A function of any of net, x, t, s and labels, recognised by these names."""

    function: Callable[..., Any]
    takes: tuple[str, ...]

    def __call__(
        self, net: Callable[..., Any], x: Tensor, t: Tensor, s: Tensor | None, labels: Any
    ) -> Any:
        """What the function answers."""
        given = {"net": net, "x": x, "t": t, "s": s, "labels": labels}
        return self.function(**{name: given[name] for name in self.takes})

    def __str__(self) -> str:
        return f"call({', '.join(self.takes)})"


def custom_call(function: Callable[..., Any], two_times: bool, labelled: bool) -> CustomCall:
    """The caller's own function.

    Raises:
        ValueError: if it has other parameters than net, x, t, s and labels, or leaves out one that
            matters.
    """
    takes = tuple(inspect.signature(function).parameters)
    needs = ("x", "t", *(["s"] if two_times else []), *(["labels"] if labelled else []))
    if wrong := [name for name in takes if name not in CUSTOM]:
        raise ValueError(f"call= has the parameters {wrong}; it may have any of {CUSTOM}")
    if missing := [name for name in needs if name not in takes]:
        raise ValueError(f"call= takes {takes} but not {missing}, which this kind needs")
    return CustomCall(function, takes)


def signature_call(net: Callable[..., Any], two_times: bool, labelled: bool) -> SignatureCall:
    """How `net` takes its state, its time or two, and labels.

    Parameters are recognised by their names; else the first two are the state and the time, and
    a third one that has no default is the second time of a kind that has two.

    Raises:
        ValueError: where that leaves something open.
    """
    parameters = parameters_of(net)
    plain = [p for p in parameters if p.kind in POSITIONAL]
    named = [p for p in parameters if p.kind in (*POSITIONAL, Parameter.KEYWORD_ONLY)]
    roles: dict[str, Parameter | None] = {role: _by_name(role, named) for role in NAMES}
    if roles["x"] is None or roles["t"] is None:
        if len(plain) < 2 and any(p.kind is Parameter.VAR_POSITIONAL for p in parameters):
            if labelled:
                raise ValueError(f"the callable does not say where its labels go; {HELP}")
            return SignatureCall(("x", "t", "s") if two_times else ("x", "t"), ())
        if len(plain) < 2:
            raise ValueError(f"the callable takes {_shown(named)}, not a state and a time; {HELP}")
        roles["x"], roles["t"] = plain[0], plain[1]
        # Whatever else these two names could mean, they are taken.
        for role in ("s", "labels"):
            rest = [p for p in named if p is not plain[0] and p is not plain[1]]
            roles[role] = _by_name(role, rest)
    if two_times and roles["s"] is None:
        taken = [p for p in roles.values() if p is not None]
        free = [p for p in plain if p not in taken and p.default is Parameter.empty]
        if len(free) != 1:
            raise ValueError(
                f"the callable takes {_shown(named)}: where is the second time? {HELP}"
            )
        roles["s"] = free[0]
    if labelled and roles["labels"] is None:
        raise ValueError(f"the callable takes {_shown(named)}: where are the labels? {HELP}")
    return _plan(roles, named, two_times, labelled)


def _plan(
    roles: dict[str, Parameter | None], named: list[Parameter], two_times: bool, labelled: bool
) -> SignatureCall:
    use = {"x": True, "t": True, "s": two_times, "labels": labelled}
    positions: list[str] = []
    keywords: list[tuple[str, str]] = []
    for parameter in named:
        role = next((r for r, p in roles.items() if p is parameter), None)
        needed = parameter.default is Parameter.empty
        if role is None or (needed and role == "s" and not two_times):
            if needed:
                raise ValueError(f"the callable also takes {parameter.name!r}; {HELP}")
        elif not use[role] and not needed:
            continue
        elif parameter.kind is Parameter.KEYWORD_ONLY or len(positions) < _index(parameter, named):
            keywords.append((role, parameter.name))
        else:
            positions.append(role)
    return SignatureCall(tuple(positions), tuple(keywords))


def _index(parameter: Parameter, named: list[Parameter]) -> int:
    return next(i for i, p in enumerate(named) if p is parameter)


def _by_name(role: str, parameters: list[Parameter]) -> Parameter | None:
    return next((p for p in parameters if p.name in NAMES[role]), None)


def _shown(parameters: list[Parameter]) -> str:
    return f"({', '.join(p.name for p in parameters)})"


def parameters_of(net: Callable[..., Any]) -> list[Parameter]:
    """Parameters of a callable, without self; of what is inside a compiled or parallel module.

    One that does not tell gets (*args, **kwargs).
    """
    if isinstance(net, nn.Module):
        inner = getattr(net, "_orig_mod", None)
        if isinstance(inner, nn.Module):
            return parameters_of(inner)
        found = list(inspect.signature(net.forward).parameters.values())
        inner = getattr(net, "module", None)
        if not _named(found) and isinstance(inner, nn.Module):
            return parameters_of(inner)
        return found
    try:
        return list(inspect.signature(net).parameters.values())
    except (TypeError, ValueError):
        kinds = {"args": Parameter.VAR_POSITIONAL, "kwargs": Parameter.VAR_KEYWORD}
        return [Parameter(name, kind) for name, kind in kinds.items()]


def _named(parameters: list[Parameter]) -> bool:
    return any(p.kind in (*POSITIONAL, Parameter.KEYWORD_ONLY) for p in parameters)


def module_of(net: Callable[..., Any]) -> nn.Module | None:
    """The module that a callable is, or is a method of, or a `partial` of one."""
    if isinstance(net, nn.Module):
        return net
    if isinstance(net, functools.partial):
        return module_of(net.func)
    owner = getattr(net, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def weights_dtype(net: Callable[..., Any]) -> torch.dtype | None:
    """Floating dtype of a callable's first weight; None if it has none."""
    module = module_of(net)
    weights = () if module is None else module.parameters()
    return next((weight.dtype for weight in weights if weight.is_floating_point()), None)
