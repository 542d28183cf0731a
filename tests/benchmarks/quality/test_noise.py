"""Gradient noise."""

import pytest
import torch

from benchmarks.quality.noise import gradient_noise
from benchmarks.quality.points import points_student
from benchmarks.quality.worlds import world_named
from ctm_fast.losses.objective import Batch, OneTerm

WORLD = world_named("mixture", batch_size=16)


class Known(OneTerm):
    """Loss a * z per image with a unit normal z: its gradient has variance 1 / batch size."""

    term = "known"

    def __init__(self, size: float) -> None:
        self.size = size

    def draw(self, batch_size, shape, generator, progress=0.0):
        return {"z": torch.randn(batch_size, generator=generator)}

    def prepare(self, batch: Batch, models, progress=0.0) -> None:
        pass

    def loss(self, term, batch, models, progress=0.0):
        return self.size * batch.draw["z"] * models.student.net.last_layer.bias[0]


def test_trace_by_hand() -> None:
    student = points_student(WORLD.teacher_net(0), "consistency").eval().requires_grad_(False)
    found = gradient_noise(Known(1.0), student, WORLD, 0.5, batches=400)
    assert found == pytest.approx(1 / 16, rel=0.2)
    twice = gradient_noise(Known(2.0), student, WORLD, 0.5, batches=400)
    assert twice == pytest.approx(4 * found, rel=1e-4)  # the same draws
