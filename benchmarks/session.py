"""The variants of one case in one process: judged first, then timed in turns."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ctm_fast.kernels import BACKENDS, Op

from .accuracy import fault
from .cases import Problem, Tensor, tensors
from .eager import eager
from .rivals import Unsupported, rivals
from .timing import Work, clock
from .traffic import least_bytes

OURS, RIVAL = "ours", "rival"
READY, FAILED, ABSENT = "ok", "FAILED", "absent"
RIVAL_SLACK = 4.0  # beyond this many times the rule's error a rival is taken to be wrong


@dataclass(frozen=True)
class Variant:
    """One way to compute an op."""

    name: str
    call: Callable[..., Any]  # takes the op's arguments
    kind: str = OURS  # or RIVAL


@dataclass
class State:
    """What the gate found out about one variant of one case."""

    name: str
    kind: str
    status: str  # READY, FAILED or ABSENT
    note: str = ""  # why it is not READY, or by how much a rival misses the rule
    auto: bool = False  # whether `auto` chooses it


class Session:
    """Cases on one device, one at a time: `prepare`, then `round` as often as wanted.

    Attributes:
        bytes: the fewest that the case moves.
    """

    def __init__(self, device: str = "cpu", *, compiled: bool = False, peers: bool = True) -> None:
        """Starts empty.

        Args:
            device: "cpu" or "cuda".
            compiled: whether `torch.compile` takes part.
            peers: False leaves only the op's own backends, without the reference if there are
                others.
        """
        self.device, self.compiled, self.peers = device, compiled, peers
        self.bytes = 0
        self._clock = clock(device)
        self._order = random.Random(0)
        self._work: dict[str, tuple[Work, float]] = {}

    def prepare(self, problem: Problem, only: tuple[str, ...] = ()) -> list[State]:
        """Judges the variants of a case and warms up those that pass.

        Args:
            problem: on the device of `Session`.
            only: names of the variants that take part besides "eager"; all if empty.
        """
        self.clear()
        chosen = [v for v in self.variants(problem) if not only or v.name in (*only, "eager")]
        states = list(self._judged(problem, chosen))
        self._release()
        for variant, state in zip(chosen, states):
            if state.status == READY:
                work = problem.work(variant.call)
                work()
                self._work[variant.name] = work, self._clock.prepare(work)
        return states

    def clear(self) -> None:
        """Forgets the case and what it holds in memory."""
        self._work.clear()
        if self.compiled:
            torch._dynamo.reset()
        self._release()

    def round(self) -> dict[str, float]:
        """Seconds of every variant, one run of each, in an order that changes every time."""
        names = list(self._work)
        self._order.shuffle(names)
        gc.disable()
        try:
            return {name: self._clock.seconds(*self._work[name]) for name in names}
        finally:
            gc.enable()

    def runner(self, name: str) -> Work:
        """One run of a variant that waits for the device, for another timer."""
        work = self._work[name][0]
        if self.device != "cuda":
            return work

        def waiting() -> None:
            work()
            torch.cuda.synchronize()

        return waiting

    def host(self) -> dict[str, float | None]:
        """Seconds for which every variant occupies the host; None on a CPU."""
        return {name: self._clock.host(work) for name, (work, _) in self._work.items()}

    def variants(self, problem: Problem) -> Iterator[Variant]:
        """The op's backends that can run this call, and the rivals."""
        op, case = problem.op, problem.case
        with torch.set_grad_enabled(case.gradient):
            able = [b for b in BACKENDS if op.why_not(b, *problem.args, **problem.kwargs) is None]
        repeated = eager(op) is op.reference if self.peers else len(able) > 1
        if repeated:
            able.remove("reference")
        for backend in able:
            yield Variant(backend, _backend(op, backend))
        if self.peers:
            for name, call in rivals(op, case.device, self.compiled):
                yield Variant(name, call, RIVAL)

    def _release(self) -> None:
        gc.collect()
        if self.device == "cuda":
            # The process of another revision shares the GPU.
            torch.cuda.empty_cache()

    def _judged(self, problem: Problem, variants: list[Variant]) -> Iterator[State]:
        same = problem.run(problem.op.reference)
        exact = problem.exactly().run(problem.op.reference)
        self.bytes = least_bytes(problem, [t for n, t in same.items() if n.startswith("result")])
        with torch.set_grad_enabled(problem.case.gradient):
            auto = problem.op.choose(*problem.args, **problem.kwargs)
        for variant in variants:
            state = State(variant.name, variant.kind, READY, auto=variant.name == auto)
            try:
                found = problem.run(variant.call)
            except Unsupported as reason:
                state.status, state.note = ABSENT, str(reason)
            except Exception as error:
                state.status = FAILED if variant.kind == OURS else ABSENT
                state.note = _first_line(error)
            else:
                state.status, state.note = verdict(problem, variant.kind, found, same, exact)
            yield state


def verdict(
    problem: Problem,
    kind: str,
    found: dict[str, Tensor],
    same: dict[str, Tensor],
    exact: dict[str, Tensor],
) -> tuple[str, str]:
    """Status and note of a variant, by the accuracy rule.

    Our own backends meet the rule or have failed. A rival may miss it, because plain PyTorch in
    a short dtype rounds where the reference does not; it has failed if its error is above
    RIVAL_SLACK times the rule's, with the unit of the shortest dtype among the arguments.

    Args:
        problem: the case.
        kind: OURS or RIVAL.
        found: results and gradients of the variant.
        same: those of the reference in the same dtypes.
        exact: those of the reference in float64.
    """
    note = ""
    floating = [t.dtype for t in tensors((problem.args, problem.kwargs)) if t.is_floating_point()]
    shortest = max(floating or [torch.float32], key=lambda dtype: torch.finfo(dtype).eps)
    for name in same:
        if name not in found:
            return FAILED, f"no {name}"
        triple = found[name], same[name], exact[name]
        reason = fault(*triple)
        if reason is None:
            continue
        if kind == OURS:
            return FAILED, f"{name}: {reason}"
        wrong = fault(*triple, unit=shortest, slack=RIVAL_SLACK)
        if wrong is not None:
            return FAILED, f"{name}: {wrong}"
        note = note or f"{name}: {reason}"
    return READY, note


def _backend(op: Op, backend: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return op(*args, backend=backend, **kwargs)

    return call


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
