"""Arms are judged before they are timed, and none spoils the run for the others."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.arms import Absent, Arm, Ready
from benchmarks.contest import Case, contest, judged
from benchmarks.outcome import ABSENT, FAILED, OURS, READY, Outcome

pytestmark = pytest.mark.usefixtures("hasty")
CASE = Case("models", "digits", 4, torch.float32, flops=1e6)
RIGHT = torch.linspace(-1, 1, 12)


def arm(name: str, result: torch.Tensor = RIGHT, **options: Any) -> Arm:
    ready = Ready(lambda: sum(range(1000)), lambda: {"output": result}, **options)
    return Arm(name, lambda: ready, OURS if name == "ours" else "rival")


def failing(error: Exception) -> Callable[..., Any]:
    def call(*_: Any) -> Any:
        raise error

    return call


def run(*arms: Arm, rounds: int = 2) -> dict[str, Outcome]:
    return {o.arm: o for o in contest(CASE, arms, lambda: {"output": RIGHT}, rounds)}


def test_an_arm_has_all_its_numbers() -> None:
    found = run(arm("official"), arm("ours", note="fast"))
    ours = found["ours"]
    assert ours.status == READY and ours.rounds == 2 and ours.note == "fast"
    assert ours.error == 0 and ours.cold_start > 0 and ours.median > 0
    assert ours.quartiles[0] <= ours.median <= ours.quartiles[1]
    assert ours.images_per_second == pytest.approx(4 / ours.median)
    assert ours.flops_per_second == pytest.approx(1e6 / ours.median)
    assert ours.matmul_rate > 0
    assert ours.ratio_to_best == pytest.approx(found["official"].median / ours.median)
    assert ours.energy_per_image is None and ours.held is not None


@pytest.mark.parametrize("where", ["build", "work", "result"])
def test_an_arm_that_fails_is_reported_and_the_run_goes_on(where: str) -> None:
    error = RuntimeError("no such luck\nand a long trace")
    ready = Ready(lambda: None, lambda: {"output": RIGHT})
    bad = Arm("bad", lambda: ready)
    if where == "build":
        bad = Arm("bad", failing(error))
    else:
        setattr(ready, where, failing(error))
    found = run(bad, arm("ours"))
    assert found["bad"].status == FAILED and found["bad"].median is None
    assert found["bad"].note == "RuntimeError: no such luck"
    assert found["ours"].status == READY


def test_an_arm_that_fails_during_the_rounds_keeps_no_time() -> None:
    calls = []

    def work() -> None:
        calls.append(1)
        if len(calls) > 4:
            raise ValueError("tired")

    ready = Ready(work, lambda: {"output": RIGHT})
    found = run(Arm("bad", lambda: ready), arm("ours"), rounds=5)
    assert found["bad"].status == FAILED and found["bad"].median is None
    assert found["ours"].rounds == 5


def test_an_absent_arm_says_why() -> None:
    found = run(Arm("edm", failing(Absent("has no such network"))), arm("ours"))
    assert (found["edm"].status, found["edm"].note) == (ABSENT, "has no such network")


def test_a_wrong_result_is_not_timed() -> None:
    found = run(arm("close", RIGHT * 1.0001), arm("wrong", RIGHT * 1.1), arm("short", RIGHT[:3]))
    assert found["close"].status == READY
    assert found["wrong"].status == FAILED and "disagrees" in found["wrong"].note
    assert found["short"].status == FAILED and "shape" in found["short"].note


def test_who_has_other_weights_is_not_judged() -> None:
    other = run(arm("peer", RIGHT * 2, judged=False))["peer"]
    assert other.status == READY and other.error is None


def test_the_largest_error_counts() -> None:
    ones = torch.ones(4)
    error, reason = judged({"a": ones, "b": ones * 1.5}, {"a": ones, "b": ones}, 1.0)
    assert error == pytest.approx(0.5) and reason is None
    assert judged({}, {"a": ones}, 1.0) == (None, "has no a")
    assert judged({"a": ones * torch.nan}, {"a": ones}, 1.0)[1] is not None


def test_ctrl_c_ends_the_run() -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Arm("bad", failing(KeyboardInterrupt())))


def test_the_words_of_a_case_tell_cases_apart() -> None:
    case = Case("solve", "digits", 2, torch.bfloat16, options={"steps": 3})
    assert case.words == "digits, batch 2, dtype bfloat16, steps 3"
