"""The published arrangement of the step has the same gradients as the trainer's."""

from dataclasses import replace

import pytest
import torch

from benchmarks import bench_step, networks
from benchmarks.contest import Case
from benchmarks.official_step import DISTANCES, pseudo_huber, squared
from benchmarks.step_arms import Task, arms_of, exact
from ctm_fast.losses import L2, PseudoHuber
from ctm_fast.losses.objective import Models


def task_of(name: str, batch: int, steps: int, **options: object) -> Task:
    settings = replace(bench_step.Settings(), **options)
    return bench_step.prepared(settings, networks.network(name), batch, steps)


def found(task: Task, name: str, batch: int, arm: str) -> torch.Tensor:
    case = Case("step", name, batch, torch.float32)
    built = {each.name: each for each in arms_of(case, task)}[arm].build()
    built.work()  # weights are not changed by it
    return built.result()["gradient"]


@pytest.mark.parametrize("arm", ["official", "eager", "ours"])
@pytest.mark.parametrize(("name", "steps"), [("tiny-song", 17), ("tiny-adm", 5), ("digits", 3)])
def test_all_arms_have_the_same_gradient(
    name: str, steps: int, arm: str, tiny_presets: None
) -> None:
    task = task_of(name, 4, steps)
    expected = exact(Case("step", name, 4, torch.float32), task)()["gradient"]
    error = (found(task, name, 4, arm) - expected).norm() / expected.norm()
    assert expected.norm() > 0 and error < 2e-4


def test_microbatches_of_the_published_arrangement_have_their_own_weights() -> None:
    """So one microbatch is judged, whatever the sizes are."""
    task = task_of("digits", 5, 2, microbatch=2, own_microbatch=3)
    assert len(task.gate) == 2 and task.own == 3
    expected = exact(Case("step", "digits", 5, torch.float32), task)()["gradient"]
    for arm in ("official", "eager", "ours"):
        error = (found(task, "digits", 5, arm) - expected).norm() / expected.norm()
        assert error < 2e-4, arm


@pytest.mark.parametrize(("own", "ours"), [(squared, L2()), (pseudo_huber, PseudoHuber())])
def test_distances(own, ours) -> None:
    a, b = torch.randn(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    models = Models(torch.nn.Identity())
    expected = ours(a, ours.targets(b, None, models), None, models)
    torch.testing.assert_close(own(a, b), expected)
    assert set(DISTANCES) == set(bench_step.DISTANCES)
