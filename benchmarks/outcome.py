"""One line of the benchmarks of networks, solves, steps and samplers, and files of such lines.

The files lie in `benchmarks/results/` and are called `engine-<machine>-<date>-<commit>.jsonl`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .machine import file_name
from .record import RESULTS

PREFIX = "engine-"
OURS, OFFICIAL, RIVAL, PEER = "ours", "official", "rival", "peer"
OFFICIAL_FP32 = "official-fp32"  # name of an arm
READY, FAILED, ABSENT = "ok", "FAILED", "absent"


@dataclass(frozen=True)
class Outcome:
    """One arm of one case. Seconds, bytes, FLOP and joules; None where there is no number."""

    bench: str  # models, solve, step or sampler
    case: str  # the network and the options in words
    arm: str  # official, eager, compile, ours, ... or the name of a peer with a word or two
    kind: str  # ours, official, rival or peer
    status: str  # ok, FAILED (did not run, or disagrees) or absent (cannot take part here)
    note: str  # why there is no time, or what to know about it
    network: str  # name of the preset
    dtype: str  # that the arm computes in
    device: str  # cpu or cuda
    batch: int  # images per call
    options: Mapping[str, Any] = field(default_factory=dict)  # of the case: steps, microbatch, ...
    rounds: int = 0  # timed rounds, each runs every arm once
    median: float | None = None  # seconds per call
    quartiles: tuple[float, float] | None = None  # lower and upper
    images_per_second: float | None = None
    ratio_to_best: float | None = None  # fastest other arm / this; see `with_ratios`
    ratio_to_official: float | None = None  # official / this
    ratio_to_official_fp32: float | None = None  # official in float32 / this
    cold_start: float | None = None  # seconds to build the arm and to run it the first time
    held: int | None = None  # bytes that the arm keeps between calls
    peak: int | None = None  # bytes that one call needs on top
    flops: float | None = None  # of one call
    flops_per_second: float | None = None
    matmul_rate: float | None = None  # FLOP/s of this machine in this dtype, measured
    energy_per_image: float | None = None  # joules, of the whole GPU
    error: float | None = None  # root mean square of the difference to the exact result, relative

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes lines of two files comparable."""
        return self.bench, self.case, self.arm

    @property
    def matmul_share(self) -> float | None:
        """Achieved FLOP/s over that of one large matrix product."""
        if self.flops_per_second is None or self.matmul_rate is None:
            return None
        return self.flops_per_second / self.matmul_rate

    def to_json(self, about: Mapping[str, Any]) -> str:
        """This line with the facts of the machine."""
        return json.dumps({**about, **dataclasses.asdict(self)})


FIELDS = {field.name for field in dataclasses.fields(Outcome)}


def with_ratios(outcomes: list[Outcome]) -> list[Outcome]:
    """The outcomes of one case with their ratios filled in; above 1, an arm is faster.

    "Other" leaves out the arm itself, and for an arm of ours all of ours.
    """
    timed = [o for o in outcomes if o.median is not None]
    medians = {o.arm: o.median for o in timed}
    official = medians.get(OFFICIAL)
    # In float32 there is only the one.
    in_fp32 = medians.get(OFFICIAL_FP32, official if _is_fp32(outcomes) else None)

    def best(own: Outcome) -> float | None:
        other = [
            o.median
            for o in timed
            if o.arm != own.arm and not (own.kind == OURS and o.kind == OURS)
        ]
        return min((m for m in other if m is not None), default=None)

    def ratio(other: float | None, own: Outcome) -> float | None:
        return None if other is None or own.median is None else other / own.median

    return [
        dataclasses.replace(
            o,
            ratio_to_best=ratio(best(o), o),
            ratio_to_official=ratio(official, o),
            ratio_to_official_fp32=ratio(in_fp32, o),
        )
        for o in outcomes
    ]


def _is_fp32(outcomes: list[Outcome]) -> bool:
    return any(o.arm == OFFICIAL and o.dtype == "float32" for o in outcomes)


def default_file(about: Mapping[str, Any]) -> Path:
    """Where the lines of a run go."""
    return RESULTS / f"{PREFIX}{file_name(dict(about))}"


def append(path: Path, outcomes: Iterable[Outcome], about: Mapping[str, Any]) -> None:
    """Adds whole lines to a file, made if need be, in one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(outcome.to_json(about) + "\n" for outcome in outcomes)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def read(path: str | Path) -> list[tuple[dict[str, Any], Outcome]]:
    """(facts of the machine, outcome) of every line; the last line of each key counts.

    Raises:
        ValueError: the file does not exist, or a line is not an outcome.
    """
    found: dict[Any, tuple[dict[str, Any], Outcome]] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            about = {key: value for key, value in fields.items() if key not in FIELDS}
            known = {key: value for key, value in fields.items() if key in FIELDS}
            if known.get("quartiles") is not None:
                known["quartiles"] = tuple(known["quartiles"])
            outcome = Outcome(**known)
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}, line {number} is not an outcome: {error}") from error
        key = (about.get("machine"), *outcome.key)
        found.pop(key, None)
        found[key] = about, outcome
    return list(found.values())
