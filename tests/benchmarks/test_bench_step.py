"""Training steps are timed end to end; the numbers are not judged here."""

from dataclasses import replace

import pytest

from benchmarks import bench_step, networks
from benchmarks.bench_step import Settings, measure, prepared, work
from benchmarks.flops import flops
from benchmarks.outcome import READY

pytestmark = pytest.mark.usefixtures("hasty")
SHORT = Settings(networks=("digits",), batches=(3,), steps=(2,), rounds=1, compiled=False)


def test_every_arm_agrees_and_is_timed() -> None:
    (outcomes,) = measure(SHORT)
    assert [o.arm for o in outcomes] == ["official", "official-fp32", "eager", "ours"]
    for o in outcomes:
        assert o.status == READY, o
        assert o.options["steps"] == 2 and o.flops_per_second > 0
        assert o.error < (1e-4 if o.dtype == "float32" else 0.4)
    assert outcomes[-1].ratio_to_official_fp32 > 0


def test_microbatches_and_distance_are_options() -> None:
    settings = replace(SHORT, microbatch=2, own_microbatch=1, distance="l2", arms=("ours",))
    ((ours,),) = measure(settings)
    assert ours.status == READY, ours
    assert ours.options == {"steps": 2, "microbatch": 2, "own_microbatch": 1, "distance": "l2"}


def test_work_counts_every_call_of_a_network() -> None:
    task = prepared(SHORT, networks.network("digits"), 3, 5)
    teacher, student = flops(task.teacher, 3), flops(task.student, 3)
    # Each backward costs about twice its forward.
    about = 10 * teacher + 2 * 3 * student + 4 * student
    assert work(task, 3, 5) == pytest.approx(about, rel=0.05)


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match="unknown distance 'lpips'"):
        next(measure(replace(SHORT, distance="lpips")))
    with pytest.raises(ValueError, match="max_steps"):
        next(measure(replace(SHORT, steps=(18,))))
    assert set(bench_step.DISTANCES) == {"l2", "pseudo_huber"}
