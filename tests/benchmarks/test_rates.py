"""The rates that the package is given: the fastest step of ours for each machine and dtype."""

import dataclasses
import json

from benchmarks.collected import Line, Machine
from benchmarks.outcome import OURS, READY, RIVAL, Outcome
from benchmarks.rates import text_of

STEP = Outcome(
    bench="step",
    case="ddpmpp-cifar10, batch 4",
    arm="ours",
    kind=OURS,
    status=READY,
    note="",
    network="ddpmpp-cifar10",
    dtype="bfloat16",
    device="cuda",
    batch=4,
    flops_per_second=1.23456e14,
)


def test_the_fastest_step_of_ours() -> None:
    about = {"date": "2026-01-01", "commit": "abc"}
    changes = [
        {},
        {"flops_per_second": 2e14, "batch": 64},
        {"flops_per_second": 9e14, "kind": RIVAL},
        {"flops_per_second": 9e14, "bench": "models"},
        {"flops_per_second": None},
        {"dtype": "float32", "flops_per_second": 1e13},
    ]
    lines = [Line(about, "file", dataclasses.replace(STEP, **change)) for change in changes]
    rows = json.loads(text_of([Machine("a GPU", True, outcomes=lines)]))
    assert [(row["dtype"], row["flops_per_second"], row["batch"]) for row in rows] == [
        ("bfloat16", 2e14, 64),
        ("float32", 1e13, 4),
    ]
    assert rows[0]["gpu"] is True and rows[0]["commit"] == "abc"
    assert json.loads(text_of([])) == []
