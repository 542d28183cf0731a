"""Teacher solves are timed end to end; the numbers are not judged here."""

from dataclasses import replace

import pytest
import torch

from benchmarks import networks
from benchmarks.bench_solve import Settings, grid_of, in_parts, measure, official_model, problem
from benchmarks.outcome import READY
from ctm_fast.solvers.heun import heun_solve_reference

pytestmark = pytest.mark.usefixtures("hasty")
SHORT = Settings(
    networks=("digits",), batches=(3,), steps=(2,), microbatch=2, rounds=1, compiled=False
)


@pytest.mark.parametrize("name", ["digits", "tiny-adm"])
def test_every_arm_agrees_and_is_timed(name: str, tiny_presets: None) -> None:
    (outcomes,) = measure(replace(SHORT, networks=(name,)))
    assert [o.arm for o in outcomes] == ["official", "official-fp32", "eager", "ours"]
    for o in outcomes:
        assert o.status == READY, o
        assert o.options == {"steps": 2, "microbatch": 2}
        assert o.error < (1e-4 if o.dtype == "float32" else 0.05)


def test_in_float32_all_arms_solve_the_same_equation() -> None:
    (outcomes,) = measure(replace(SHORT, dtype=torch.float32, steps=(5,)))
    assert all(o.error < 1e-4 for o in outcomes), outcomes


def test_microbatches_change_nothing() -> None:
    net = networks.network("digits")
    given = problem(net, 5, 3, "cpu")
    model = official_model(net, net)
    expected = heun_solve_reference(
        networks.denoiser(net), given.x, given.sigmas, given.start, 3, given.labels
    )
    for size in (None, 2, 11):
        torch.testing.assert_close(in_parts(model, given, size), expected, rtol=1e-3, atol=1e-4)


def test_starts_leave_room_for_the_steps(tiny_presets: None) -> None:
    net = networks.network("tiny-adm")
    assert len(grid_of(net)) == 40
    assert problem(net, 50, 39, "cpu").start.tolist() == [0] * 50
    with pytest.raises(ValueError, match=r"steps must be in \[1, 39\], got 40"):
        problem(net, 1, 40, "cpu")
