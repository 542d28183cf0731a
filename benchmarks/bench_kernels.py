"""Times of every op's backends and rivals on this machine: judged first, then taken in turns."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch

from ctm_fast.kernels import BACKENDS, OPS

from .base import Remote, installed
from .cases import Case, Problem, cases
from .eager import plain
from .record import BASE, Record, first_shape
from .rivals import RIVALS
from .session import READY, RIVAL, Session, State
from .timing import copy_bandwidth, quartiles

WARM_UP = 2  # rounds that are not counted
PAUSE = 5e-3  # seconds after which the waiting threads of another process have gone to sleep
VARIANTS = (*BACKENDS, *RIVALS)


@dataclass(frozen=True)
class Settings:
    """What `measure` measures."""

    op: str | None = None  # only this one
    case: str = ""  # only cases whose words contain this
    device: str = "cpu"  # or "cuda"
    rounds: int = 15  # each runs every variant once, >= 1
    gradients: bool = True  # also forward and backward together
    compiled: bool = False  # also `torch.compile`
    base: str | None = None  # another revision of this repository
    variants: tuple[str, ...] = ()  # of VARIANTS: only these, and "eager"; all if empty


def measure(settings: Settings) -> Generator[list[Record], None, None]:
    """Records of one case and mode after another.

    Raises:
        ValueError: unknown op or variant, no case, no round, no GPU, or no such revision.
        RuntimeError: the other revision cannot be built or run.
    """
    chosen = list(cases(settings.op, settings.device, settings.case, settings.gradients))
    if not chosen:
        raise ValueError(f"no case of {settings.op or 'any op'} contains {settings.case!r}")
    if settings.rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {settings.rounds}")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but there is no CUDA GPU")
    unknown = set(settings.variants) - set(VARIANTS)
    if unknown:
        raise ValueError(f"unknown variants {sorted(unknown)}; choose from {VARIANTS}")
    with ExitStack() as stack:
        base = None
        if settings.base is not None:
            tree = stack.enter_context(installed(settings.base))
            base = stack.enter_context(Remote(tree, settings.device, torch.get_num_threads()))
        copied = copy_bandwidth() if settings.device == "cuda" else None
        session = Session(settings.device, compiled=settings.compiled)
        for case in chosen:
            yield _measured(case, settings, session, base, copied)


def _measured(
    case: Case, settings: Settings, session: Session, base: Remote | None, copied: float | None
) -> list[Record]:
    """Records of one case."""
    session.clear()
    problem = Problem(case)
    states = session.prepare(problem, settings.variants)
    sessions: list[tuple[str, Session | Remote]] = [("", session)]
    if base is not None:
        others = base.prepare(case, settings.variants)
        states += [replace(s, name=BASE + s.name, kind="base") for s in others]
        sessions.append((BASE, base))
    times: dict[str, list[float]] = {s.name: [] for s in states}
    for turn in range(-WARM_UP, settings.rounds):
        # Who comes first changes from round to round.
        for prefix, each in sessions if turn % 2 else reversed(sessions):
            if base is not None and settings.device == "cpu":
                time.sleep(PAUSE)
            for name, seconds in each.round().items():
                if turn >= 0:
                    times[prefix + name].append(seconds)
    host = {prefix + name: s for prefix, each in sessions for name, s in each.host().items()}
    moved = session.bytes if plain(OPS[case.op]).memory_bound else None
    records = [
        _record(problem, state, settings.rounds, times[state.name], host.get(state.name), moved)
        for state in states
    ]
    records = [
        replace(
            record,
            copy_bandwidth=copied,
            base=None if base is None or record.kind != "base" else base.tree.commit,
        )
        for record in records
    ]
    return with_ratios(records)


def _record(
    problem: Problem,
    state: State,
    rounds: int,
    samples: list[float],
    host: float | None,
    moved: int | None,
) -> Record:
    known: dict[str, Any] = {}
    if state.status == READY:
        low, median, high = quartiles(samples)
        rate = None if moved is None else moved / median
        known = dict(median=median, quartiles=(low, high), host=host, bandwidth=rate)
    case = problem.case
    return Record(
        op=case.op,
        case=case.words,
        mode=case.mode,
        variant=state.name,
        kind=state.kind,
        status=state.status,
        note=state.note,
        auto=state.auto,
        shape=first_shape(case),
        dtype=problem.dtypes,
        options=case.to_json()["options"],
        rounds=rounds,
        bytes=moved,
        **known,
    )


def with_ratios(records: list[Record]) -> list[Record]:
    """The records of one case and mode with their ratios filled in; above 1, a line is faster."""
    medians = {r.variant: r.median for r in records if r.median is not None}
    rivals = [medians[r.variant] for r in records if r.kind == RIVAL and r.variant in medians]
    best = min(rivals, default=None)

    def ratio(other: float | None, record: Record) -> float | None:
        return None if other is None or record.median is None else other / record.median

    return [
        replace(
            record,
            ratio=ratio(medians.get("eager"), record),
            ratio_to_rival=ratio(best, record),
            ratio_to_base=None
            if record.kind == "base"
            else ratio(medians.get(_in_base(record, records)), record),
        )
        for record in records
    ]


def _in_base(record: Record, records: list[Record]) -> str:
    """Which variant of the base a record is compared with: auto with auto, others by name."""
    if record.auto:
        for other in records:
            if other.kind == "base" and other.auto:
                return other.variant
    return BASE + record.variant
