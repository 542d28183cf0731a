"""Result files as the benchmarks write them, with made-up numbers."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from benchmarks.outcome import ABSENT, OFFICIAL, OURS, READY, RIVAL, Outcome, with_ratios
from benchmarks.record import Record

XEON = {
    "machine": "Intel(R) Xeon(R) Processor, 2 cores",
    "cpu": "Intel(R) Xeon(R) Processor, 2 cores",
    "gpu": None,
    "driver": None,
    "torch": "2.13.0",
    "triton": "3.7.1",
    "threads": 2,
    "date": "2026-01-02",
    "commit": "0123456789ab",
    "dirty": False,
}
A100 = {**XEON, "machine": "NVIDIA A100", "gpu": "NVIDIA A100", "driver": "580.1"}
SECONDS = {"official": 4.0, "eager": 2.0, "compile": 1.6, "ours": 1.0}
KINDS = {"official": OFFICIAL, "ours": OURS}


def outcomes(
    bench: str = "models", batch: int = 1, seconds: dict[str, float | None] | None = None
) -> list[Outcome]:
    """One case, an arm without a time takes no part."""
    case = f"digits, batch {batch}, dtype bfloat16"
    found = []
    for arm, time in (SECONDS if seconds is None else seconds).items():
        one = Outcome(
            *(bench, case, arm, KINDS.get(arm, RIVAL), READY, "", "digits", "bfloat16"),
            *("cpu", batch),
            median=time,
        )
        if time is None:
            one = dataclasses.replace(one, status=ABSENT, note="it takes a GPU")
        else:
            one = dataclasses.replace(
                one, quartiles=(time * 0.9, time * 1.1), images_per_second=batch / time
            )
        found.append(one)
    return with_ratios(found)


def record(case: str, ratio: float, **fields: Any) -> Record:
    """A kernel that `auto` takes."""
    known: dict[str, Any] = dict(
        **dict(op="jump", case=case, mode="forward", variant="native", kind="ours"),
        **dict(status="ok", note="", auto=True, shape=(8, 3), dtype="float32", options={}),
        **dict(rounds=15, median=1e-3, quartiles=(1e-3, 1e-3)),
        **dict(ratio=2 * ratio, ratio_to_rival=ratio),
    )
    return Record(**{**known, **fields})


def write(path: Path, lines: list[Any], about: dict[str, Any] = XEON, **facts: Any) -> Path:
    """A file of records or outcomes."""
    path.write_text("".join(line.to_json({**about, **facts}) + "\n" for line in lines))
    assert all(json.loads(line) for line in path.read_text().splitlines())
    return path
