"""Which of the networks that a foreign module may be it is: random batches decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..wrappers.edm import WRAPPERS
from .foreign_hosts import DiffusersNetwork
from .foreign_module import Call, RawNetwork, call_of, unknown
from .foreign_nets import Candidate, candidates, rebuilt
from .foreign_wrappers import CTMNetwork, DenoisingNetwork, ScaledNetwork

EXACT = 1e-4  # a difference that needs no other candidate, as a share of the output
CLEARLY = 10  # how many times nearer the best candidate is than the next
NOTHING = 1e-3  # smaller outputs, as those of an untrained network, are compared with this


def difference(
    found: list[Tensor], expected: list[Tensor], calls: list[Call] | None = None
) -> float:
    """Largest root mean square of the difference of one call, as a share of the output's.

    Args:
        found: our answers.
        expected: the original's.
        calls: what was asked, of a network with scalings. It answers with images that may be
            nearly those it was given, or nearly nothing: what counts then is the larger of the
            answer and of its distance from the question.
    """
    errors = [0.0]
    for index, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        if ours.shape != theirs.shape:
            raise ValueError(f"the output is {tuple(theirs.shape)}, ours {tuple(ours.shape)}")
        size = max(_rms(theirs), NOTHING)
        if calls is not None:
            size = max(size, _rms(theirs - calls[index][0][0].double()))
        errors.append(_rms(ours - theirs) / size)
    return float(torch.tensor(errors, dtype=torch.float64).amax())  # not a number comes first


@dataclass(frozen=True)
class Match:
    """A candidate that gives what the original gives."""

    host: RawNetwork
    candidate: Candidate
    expected: list[Tensor]  # what the original gives
    error: float  # difference, as a share of the output


def network(
    raw: nn.Module,
    kind: type[RawNetwork],
    state: dict[str, Tensor],
    batch: int,
    rounding: float,
    overrides: Mapping[str, Any],
) -> Match:
    """The first candidate that is exact; else the best, if no other comes near it.

    Args:
        raw: the original, a network without scalings.
        kind: how it is called.
        state: its state dict.
        batch: images of a call.
        rounding: largest difference, as a share of the output.
        overrides: see `candidates`.

    Raises:
        ValueError: if there is none, naming those that were tried; for an unknown network.
    """
    tried: list[str] = []
    answers: list[Any] = []
    best: Match | None = None
    second = float("inf")
    for candidate in candidates(raw, state, overrides):
        if candidate.layout not in kind.layouts:
            raise ValueError(unknown(raw))
        about = candidate.about or f"layout {candidate.layout!r}"
        try:
            host = kind(raw, rebuilt(state, candidate))
        except ValueError as error:
            tried.append(f"{about}: {error}")
            continue
        calls = host.calls(batch)
        answers = answers or called(raw, calls)
        expected = tensors(answers)
        differs = difference(tensors(called(host, calls)), expected)
        tried.append(f"{about}: differs by {differs:.2g} of the output")
        if isinstance(host, DiffusersNetwork):
            host.output_class = type(answers[0])
        if not differs >= 0:
            continue
        if best is None or differs < best.error:
            second = second if best is None else best.error
            best = Match(host, candidate, expected, differs)
        else:
            second = min(second, differs)
        if best.error <= EXACT:
            return best
    if best is not None and best.error <= rounding and CLEARLY * best.error <= second:
        return best
    raise ValueError(
        f"no network of ctm_fast gives what this {type(raw).__name__} gives (tolerance "
        f"{rounding:.0e}). Tried: {'; '.join(tried)}"
    )


def wrapper(
    original: nn.Module, host: RawNetwork, batch: int, allowed: float
) -> tuple[ScaledNetwork, list[Tensor]]:
    """The wrapper whose formulas are the original's, and what that gives.

    By the original's class; of an unknown one the first that agrees.

    Args:
        original: a network with scalings.
        host: in place of the network in it.
        batch: images of a call.
        allowed: largest difference, as a share of the output.

    Raises:
        ValueError: if none agrees, naming those that were tried.
    """
    if call_of(original) == CTMNetwork.parameters_of_call:
        if getattr(original, "teacher", False):
            raise ValueError("EDMPrecond_CTM with teacher=True: freeze its .model instead")
        makers: dict[str, Callable[[], ScaledNetwork]]
        makers = {"EDMPrecond_CTM": lambda: CTMNetwork(original, host)}
    else:
        named = [cls.__name__ for cls in type(original).__mro__ if cls.__name__ in WRAPPERS]
        names = named[:1] or list(WRAPPERS)
        makers = {n: lambda n=n: DenoisingNetwork(original, host, n) for n in names}  # type: ignore[misc]
    tried: list[str] = []
    for name, make in makers.items():
        try:
            made = make()
            calls = made.calls(batch)
            expected = tensors(called(original, calls))
            error = difference(tensors(called(made, calls)), expected, calls)
        except ValueError as reason:
            tried.append(f"{name}: {reason}")
            continue
        if error <= allowed:
            return made, expected
        tried.append(f"{name}: differs by {error:.2g} of the output")
    raise ValueError(
        f"this {type(original).__name__} scales its network's output in a way that is not known "
        f"here. Tried: {'; '.join(tried)}; its .model alone can be frozen"
    )


def rounding_of(
    original: nn.Module, state: dict[str, Tensor], tolerances: Mapping[torch.dtype, float]
) -> float:
    """What rounding may do to the original itself."""
    own = {value.dtype for value in state.values() if value.is_floating_point()}
    if getattr(original, "use_fp16", False) is True:
        own.add(torch.float16)
    return max([EXACT, *(tolerances.get(dtype, EXACT) for dtype in own)])


def called(module: nn.Module, calls: list[Call]) -> list[Any]:
    """What a module answers to each call.

    Raises:
        ValueError: if it fails.
    """
    device = next(module.parameters()).device
    found = []
    for args, named in calls:
        moved = [v.to(device) if isinstance(v, Tensor) else v for v in args]
        kwargs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in named.items()}
        try:
            found.append(module(*moved, **kwargs))
        except (TypeError, RuntimeError, AssertionError, AttributeError) as error:
            raise ValueError(f"a call of this {type(module).__name__} fails: {error}") from error
    return found


def tensors(answers: list[Any]) -> list[Tensor]:
    """In float64 on the CPU."""
    return [(a if isinstance(a, Tensor) else a[0]).double().cpu() for a in answers]


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
