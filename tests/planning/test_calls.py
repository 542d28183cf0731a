"""Evaluations per image: CTM's by its probabilities, all others as counted."""

import pytest

from ctm_fast.losses import CTM, DSM, PseudoHuber
from ctm_fast.losses.ctm_gan import CTMGAN
from ctm_fast.losses.gan import GAN
from ctm_fast.planning.calls import Calls, calls_of, mean_teacher_steps
from ctm_fast.planning.probe import probed
from ctm_fast.presets import PRESETS
from ctm_fast.timesteps import TrajectoryLevels


@pytest.mark.parametrize(
    ("name", "expected"), [("ctm-cifar10", 35 / 3), ("ctm-imagenet64", 79 / 3)]
)
def test_published_teacher_steps(name, expected) -> None:
    objective = PRESETS[name].objective()
    assert mean_teacher_steps(objective) == pytest.approx(expected)
    assert calls_of(objective).teacher == pytest.approx(2 * expected)
    assert calls_of(objective).trained == 2
    gan = PRESETS["ctm-imagenet64-gan"].objective()
    assert mean_teacher_steps(gan) == pytest.approx(41 / 3)
    assert mean_teacher_steps(DSM()) is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target_inner": "none", "target_matching": True},
        {"self_teacher": "heun_denoiser"},
        {"self_teacher": "iterative_jump", "denoising_weight": 0.0},
        {"estimate_outer": "student"},
        {"teacher_solver": "multistep"},
    ],
    ids=str,
)
def test_probabilities_agree_with_counts(options) -> None:
    levels = TrajectoryLevels(max_steps=3, per_sample=True)
    objective = CTM(num_scales=6, levels=levels, distance=PseudoHuber(), **options)
    exact, counted = calls_of(objective), Calls(**{**probed(objective), "distances": 1.0})
    for field in ("teacher", "trained", "through", "frozen"):
        expected = pytest.approx(getattr(exact, field), rel=0.05, abs=0.03)
        assert getattr(counted, field) == expected, field


def test_the_adversarial_term_is_a_mean_over_the_run() -> None:
    shared = dict(num_scales=6, distance=PseudoHuber())
    plain, gan = calls_of(CTM(**shared)), CTMGAN(**shared, gan=GAN(start=50, period=2))
    assert calls_of(gan, 50) == plain
    late = calls_of(CTMGAN(**shared), 100)
    assert late.teacher == pytest.approx(plain.teacher / 2)
    assert (late.judged, late.judged_through) == (1.0, 0.5)
    assert late.trained == pytest.approx((plain.trained + 1) / 2)
    half = calls_of(gan, 100)
    assert half.teacher == pytest.approx(0.75 * plain.teacher)


def test_several_fakes_of_an_image_are_counted_one_by_one() -> None:
    shared = dict(num_scales=6, distance=PseudoHuber())
    one, three = (calls_of(CTMGAN(**shared, pairs=pairs), 100) for pairs in (1, 3))
    plain = calls_of(CTM(**shared, pairs=3))
    assert three.teacher == pytest.approx(plain.teacher / 2)
    assert three.trained == pytest.approx((plain.trained + 3) / 2)
    assert (three.judged, three.judged_through) == (2.0, 1.5)
    direct = calls_of(CTMGAN(**shared, pairs=3, gan=GAN(fake="direct")), 100)
    assert (direct.judged, direct.judged_through) == (one.judged, one.judged_through)


def test_sums() -> None:
    assert Calls(teacher=1.0).plus(Calls(teacher=0.5, frozen=2.0)) == Calls(1.5, 0, 0, 2.0)
    assert Calls(trained=3.0).scaled(2) == Calls(trained=6.0)
