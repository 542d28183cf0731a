"""The networks of a run: names in a checkpoint, decays, and which of them a step trains."""

import pytest
import torch

from ctm_fast.losses import CTM, DSM, SCM
from ctm_fast.trainer import TrainConfig
from ctm_fast.trainer.distributed import World
from ctm_fast.trainer.networks import Networks
from tests.trainer import tiny


def networks(objective, teacher=None, weak=None, student=None, **options):
    parts = student or tiny.denoiser(), teacher, weak
    config = TrainConfig(**options)
    return Networks(objective, *parts, config, World(), torch.device("cpu"))


def test_names_and_models():
    teacher = tiny.denoiser(1, destination=False)
    made = networks(CTM(), teacher, ema=(0.9, 0.5), precision="bf16")
    assert list(made.modules) == ["student", "target", "ema/0", "ema/1"]
    assert made.models.teacher is teacher
    assert not teacher.training
    assert made.models.student.training
    assert made.student.dtype == torch.bfloat16
    assert made.followers == [*made.averages, made.target]
    assert made.models.companion is made.companion is None
    student = tiny.denoiser(kind="consistency", destination=False)
    assert list(networks(SCM(), student=student, ema=()).modules) == ["student", "companion"]


def test_decays():
    made = networks(CTM(), tiny.denoiser(1), ema=(0.9,), ema_halflife_kimg=(0.016,), target_ema=0.5)
    assert made.decays(10_000, 8, 0.0) == pytest.approx([0.9, 0.5**0.5, 0.5])

    class Own(CTM):
        def target_decay(self, progress):
            return progress / 2

    assert networks(Own(), tiny.denoiser(1), ema=(0.9,)).decays(0, 8, 0.5) == [0.9, 0.25]
    assert networks(DSM(), ema=(0.9,)).decays(0, 8, 0.5) == [0.9]


def test_what_a_step_trains():
    assert networks(DSM()).trained(3) == {"student", "companion"}

    class Phases(DSM):
        def trains(self, step):
            return [{"student"}, set(), {"teacher"}][step]

    made = networks(Phases())
    assert made.trained(0) == {"student"}
    with pytest.raises(ValueError, match=r"trains\(1\) of Phases is \[\]; choose from"):
        made.trained(1)
    with pytest.raises(ValueError, match=r"trains\(2\) of Phases is \['teacher'\]"):
        made.trained(2)


def test_companions_are_made_from_what_exists():
    seen = []

    class Sees(SCM):
        def companion(self, models):
            seen.append(models)
            return super().companion(models)

    weak, student = tiny.denoiser(2), tiny.denoiser(kind="consistency", destination=False)
    made = networks(Sees(), tiny.denoiser(1), weak, student)
    (models,) = seen
    assert (models.student, models.teacher, models.weak) == (student, made.teacher, weak)
    assert models.target is models.companion is None
    made.moved(frozenset({"companion"}))
