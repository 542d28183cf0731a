"""Work of a step: what the evaluations cost."""

import dataclasses

import pytest

from ctm_fast import models
from ctm_fast.losses import CTM, LPIPS, PseudoHuber
from ctm_fast.losses.ctm_gan import CTMGAN
from ctm_fast.planning.calls import Calls, calls_of
from ctm_fast.planning.sizes import encoding_flops, forward_flops, training_flops
from ctm_fast.planning.work import TIMM_FLOPS, VGG16, step_flops
from ctm_fast.presets import PRESETS

STUDENT = models.PRESETS["ctm-digits"]
TEACHER = models.PRESETS["digits"]


def test_every_kind_of_evaluation() -> None:
    forward, trained = forward_flops(STUDENT), training_flops(STUDENT)
    for calls, expected in [
        (Calls(trained=1.0), trained),
        (Calls(frozen=1.0), forward),
        (Calls(through=1.0), 2 * forward),
        (Calls(tangents=1.0), 3 * forward),
        (Calls(teacher=5.0), 5 * forward_flops(TEACHER)),
        (Calls(features=1.0, features_through=1.0), 3 * encoding_flops(TEACHER)),
    ]:
        assert step_flops(calls, STUDENT, TEACHER, CTM()) == pytest.approx(expected), calls


def test_distance_and_discriminator() -> None:
    calls = Calls(distances=1.0)
    assert step_flops(calls, STUDENT, None, CTM(distance=LPIPS())) == 3 * VGG16
    assert step_flops(calls, STUDENT, None, CTM(distance=PseudoHuber())) == 0
    seen = Calls(judged=1.0, judged_through=1.0)
    assert step_flops(seen, STUDENT, TEACHER, CTMGAN()) == 3 * encoding_flops(TEACHER)
    published = PRESETS["ctm-cifar10-gan"].objective()
    backbones = sum(TIMM_FLOPS[b.model] for b in published.gan.backbones)
    assert step_flops(seen, STUDENT, TEACHER, published) == 3 * backbones


def test_the_published_step() -> None:
    """Specification of CTM, 3.2: 1578 GFLOP an image, with a pass for weights that is not needed.

    All estimates and targets pass through the last jump there; here half of them have arrived.
    """
    objective = PRESETS["ctm-cifar10"].objective()
    student = models.PRESETS["ctm-ddpmpp-cifar10"]
    teacher = dataclasses.replace(student, destination=False)
    every = dataclasses.replace(calls_of(objective), through=1.0, frozen=2.0)
    found = step_flops(every, student, teacher, objective)
    assert found / 1e9 == pytest.approx(1578 - 73, rel=0.01)
