"""Equal budgets, counted."""

import dataclasses

import pytest
import torch

from benchmarks.quality.methods import METHODS
from benchmarks.quality.training import cost, schedule, trained, trained_teacher
from benchmarks.quality.worlds import world_named
from ctm_fast.trainer import TrainConfig

WORLD = dataclasses.replace(world_named("mixture"), teacher_steps=30, batch_size=32)


@pytest.fixture(scope="module")
def teacher():
    return trained_teacher(WORLD, 0)


def test_costs_by_hand(teacher) -> None:
    def of(name: str) -> list[float]:
        return [cost(stage, WORLD, teacher, 0) for stage in METHODS[name].stages("mixture")]

    assert of("ECT") == [4]  # forward, backward, target
    assert of("CD") == [6]  # and two calls of the teacher
    assert of("sCT") == [5]  # derivative: 2; forward and backward: 3
    assert of("TCM") == [4, 4]
    assert of("CTM")[0] == pytest.approx(of("CTM alone")[0] + 3)  # one more pass with gradient


@pytest.mark.parametrize("name", ["CTM", "SCT", "TCM", "AYF"])
def test_budget_is_used_and_not_exceeded_by_much(name: str, teacher) -> None:
    done = trained(METHODS[name], WORLD, teacher, 0, budget=200)
    assert done.evaluations == pytest.approx(200, rel=0.15)
    assert done.steps >= 10
    before = teacher.net.first.weight
    assert not torch.equal(done.model.net.first.weight, before)


def test_schedule_fits_the_steps() -> None:
    config = schedule(TrainConfig(lr_warmup=50, lr_cooldown=900), 40, 3, 16)
    assert (config.steps, config.lr_warmup, config.lr_cooldown) == (40, 4, 30)
    assert (config.seed, config.batch_size) == (3, 16)
