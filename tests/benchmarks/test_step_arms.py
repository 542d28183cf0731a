"""What the arms of a step share; their gradients are compared in test_official_step.py."""

import torch

from benchmarks import bench_step, networks
from benchmarks.contest import Case
from benchmarks.step_arms import Task, arms_of, fresh, gradients


def task_of(batch: int, steps: int) -> Task:
    return bench_step.prepared(bench_step.Settings(), networks.network("digits"), batch, steps)


def test_a_call_changes_no_weight() -> None:
    task = task_of(2, 1)
    before = {name: p.clone() for name, p in task.student.named_parameters()}
    for arm in arms_of(Case("step", "digits", 2, torch.float32), task):
        if "compile" in arm.name:
            continue
        ready = arm.build()
        ready.work()
        first = ready.result()["gradient"]
        ready.work()
        # Averages and weights stay, so every round does the same work on the same numbers.
        torch.testing.assert_close(ready.result()["gradient"], first, rtol=1e-3, atol=1e-6)
    assert all(torch.equal(p, before[name]) for name, p in task.student.named_parameters())


def test_a_batch_is_used_again_and_again() -> None:
    task = task_of(2, 2)
    copy = fresh(task.batch)
    copy.draw["extra"] = 1
    assert "extra" not in task.batch.draw


def test_gradients_are_one_vector_in_the_order_of_names() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Linear(1, 1))
    net[0](torch.ones(1, 2)).sum().backward()
    vector = gradients(net)["gradient"]
    assert vector.tolist() == [1, 1, 1, 0, 0]
