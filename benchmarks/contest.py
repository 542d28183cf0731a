"""The arms of one case in one process: built, judged, timed in turns, then weighed one by one."""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from . import memory
from .arms import Absent, Arm, Named, Ready
from .energy import Energy
from .flops import matmul_rate
from .outcome import ABSENT, FAILED, READY, Outcome, with_ratios
from .stopwatch import stopwatch
from .timing import quartiles

WARM_UP = 1  # rounds that are not counted
LONG = 2.0  # seconds; an arm whose call takes longer needs no warming up after its first calls
MEASURED = 1.0  # seconds of work at least whose energy is measured

TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-3,
    torch.float16: 2e-2,
    torch.bfloat16: 8e-2,
}
"""Largest root mean square of an arm's error, as a share of the exact result's, by dtype."""


@dataclass(frozen=True)
class Case:
    """What the arms are asked to do, and how it is described."""

    bench: str  # models, solve, step or sampler
    network: str  # name of a preset
    batch: int  # images per call
    dtype: torch.dtype  # that arms compute in unless they say otherwise
    device: str = "cpu"  # or "cuda"
    options: dict[str, Any] = field(default_factory=dict)  # steps, microbatch, ...
    flops: float | None = None  # of one call
    loose: float = 1.0  # times TOLERANCE; a solve or a gradient multiplies errors

    @property
    def words(self) -> str:
        """The case in words, without the device."""
        known = {"batch": self.batch, "dtype": name(self.dtype), **self.options}
        return ", ".join([self.network, *(f"{key} {value}" for key, value in known.items())])


@dataclass
class Entry:
    """What is known about one arm of the case that runs."""

    arm: Arm
    status: str = READY
    note: str = ""
    ready: Ready | None = None
    about: float = 0.0  # seconds of one call, roughly
    seconds: list[float] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)  # fields of Outcome


def name(dtype: torch.dtype) -> str:
    """Without the "torch."."""
    return str(dtype).removeprefix("torch.")


def contest(
    case: Case, arms: Sequence[Arm], exact: Callable[[], Named], rounds: int
) -> list[Outcome]:
    """Outcomes of all arms. One that fails is reported with its reason, and the others go on.

    Args:
        case: what the arms were made for.
        arms: in the order of the table.
        exact: the result that all are judged by.
        rounds: timed rounds, >= 1; each runs every arm once, in an order that is drawn anew.
    """
    torch._dynamo.reset()
    # The three networks of a step share their code; each call of each is a graph of its own.
    torch._dynamo.config.recompile_limit = 64
    watch = stopwatch(case.device)
    say(f"{case.bench}: {case.words}")
    judge = exact()
    entries = [Entry(arm) for arm in arms]
    for entry in entries:
        with _excused(entry):
            _enter(case, entry, judge)
            assert entry.ready is not None
            entry.about = watch.prepare(entry.ready.work)
    order = random.Random(0)
    for turn in range(-WARM_UP, rounds):
        running = [e for e in entries if e.status == READY and (turn >= 0 or e.about < LONG)]
        order.shuffle(running)
        say(f"  round {max(turn, 0)} of {rounds}", end="\r")
        gc.collect()
        gc.disable()
        try:
            for entry in running:
                with _excused(entry):
                    assert entry.ready is not None
                    seconds = watch.seconds(entry.ready.work, entry.about)
                    if turn >= 0:
                        entry.seconds.append(seconds)
        finally:
            gc.enable()
    for entry in entries:
        if entry.status == READY:
            with _excused(entry):
                _weigh(case, entry)
    outcomes = [_outcome(case, entry) for entry in entries]
    for entry in entries:
        entry.ready = None
    memory.settle()
    return with_ratios(outcomes)


def say(text: str, end: str = "\n") -> None:
    """Progress, on stderr; lines that replace each other only on a terminal."""
    if end == "\n" or sys.stderr.isatty():
        print(text, file=sys.stderr, end=end, flush=True)


def _enter(case: Case, entry: Entry, judge: Named) -> None:
    """Builds an arm, runs it for the first time and judges its result."""
    say(f"  {entry.arm.name}: ", end="\r")
    before, started = memory.held(case.device), time.perf_counter()
    entry.ready = ready = entry.arm.build()
    ready.work()
    if case.device == "cuda":
        torch.cuda.synchronize()
    entry.known["cold_start"] = time.perf_counter() - started
    after = memory.held(case.device)
    if before is not None and after is not None:
        entry.known["held"] = max(0, after - before)
    entry.note = ready.note
    say(f"  {entry.arm.name}: first call after {entry.known['cold_start']:.1f} s")
    if not ready.judged:
        return
    error, reason = judged(ready.result(), judge, case.loose * TOLERANCE[_dtype(case, entry)])
    entry.known["error"] = error
    if reason is not None:
        entry.status, entry.note = FAILED, reason


def judged(found: Named, exact: Named, allowed: float) -> tuple[float | None, str | None]:
    """(largest error over the results, what is wrong or None).

    The error of a result is the root mean square of the difference to the exact one, as a share
    of the root mean square of that.
    """
    worst = 0.0
    for key, right in exact.items():
        if key not in found:
            return None, f"has no {key}"
        value = found[key].detach().double().cpu()
        right = right.detach().double().cpu()
        if value.shape != right.shape:
            return None, f"{key} has shape {tuple(value.shape)}, not {tuple(right.shape)}"
        error = float((value - right).norm() / right.norm().clamp(min=1e-30))
        if not error <= allowed:
            return None, f"{key} disagrees: error {error:.2g}, allowed are {allowed:.2g}"
        worst = max(worst, error)
    return worst, None


def _weigh(case: Case, entry: Entry) -> None:
    """Memory and energy of one arm, apart from the timing."""
    assert entry.ready is not None
    work = entry.ready.work
    entry.known["peak"] = memory.peak(work, case.device)
    count = max(1, int(MEASURED / max(min(entry.seconds), 1e-9)))
    if case.device != "cuda":
        return
    with Energy(case.device) as used:
        for _ in range(count):
            work()
    entry.known["energy_per_image"] = used.per(count * case.batch)


def _outcome(case: Case, entry: Entry) -> Outcome:
    dtype = _dtype(case, entry)
    known = dict(entry.known)
    if entry.status == READY:
        low, median, high = quartiles(entry.seconds)
        known |= {"median": median, "quartiles": (low, high), "flops": case.flops}
        known["images_per_second"] = case.batch / median
        if case.flops is not None:
            known["flops_per_second"] = case.flops / median
            known["matmul_rate"] = matmul_rate(dtype, case.device)
    return Outcome(
        bench=case.bench,
        case=case.words,
        arm=entry.arm.name,
        kind=entry.arm.kind,
        status=entry.status,
        note=entry.note,
        network=case.network,
        dtype=name(dtype),
        device=case.device,
        batch=case.batch,
        options=case.options,
        rounds=len(entry.seconds),
        **known,
    )


def _dtype(case: Case, entry: Entry) -> torch.dtype:
    return entry.arm.dtype or case.dtype


@contextmanager
def _excused(entry: Entry) -> Iterator[None]:
    """Whatever goes wrong inside is the arm's own matter."""
    try:
        yield
    except Absent as reason:
        entry.status, entry.note, entry.ready = ABSENT, str(reason), None
    except Exception as error:
        lines = str(error).strip().splitlines()
        first = f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
        entry.status, entry.note, entry.ready = FAILED, first, None
    if entry.status != READY:
        entry.ready = None
        say(f"  {entry.arm.name}: {entry.status}: {entry.note}")
