"""The table of methods."""

import pytest

from benchmarks.quality.methods import METHODS, NOISE_SIZES, WORLDS, noise_arms, noise_name
from ctm_fast.losses import L2, PseudoHuber

PAIRS = [(world, method) for method in METHODS.values() for world in method.worlds]


@pytest.mark.parametrize(("world", "method"), PAIRS, ids=lambda x: getattr(x, "name", x))
def test_stages_share_the_budget(world: str, method) -> None:
    stages = method.stages(world)
    assert stages
    assert 0 < sum(stage.share for stage in stages) <= 1
    for stage in stages:
        distance = getattr(stage.objective, "distance", None)
        assert world == "digits" or distance in (None, L2(), PseudoHuber(0.03))


def test_pieces_differ_in_what_their_names_say() -> None:
    assert METHODS["CTM"].stages("digits")[0].objective.terms == ("ctm", "dsm")
    assert METHODS["CTM alone"].stages("digits")[0].objective.terms == ("ctm",)
    half, whole = (
        METHODS[name].stages("digits") for name in ("TCM stage 1", "TCM stage 1, longer")
    )
    assert half[0].objective == whole[0].objective == METHODS["TCM"].stages("digits")[0].objective
    assert (half[0].share, whole[0].share) == (0.5, 1.0)


@pytest.mark.parametrize("world", WORLDS)
def test_arms_of_the_noise_differ_in_the_target_only(world: str) -> None:
    arms = noise_arms(world)
    assert list(arms) == ["ECT", *map(noise_name, NOISE_SIZES)]
    for name in ("gap", "distance", "density", "weighting"):
        assert len({repr(getattr(arm, name)) for arm in arms.values()}) == 1, name


def test_adversarial_term_begins_after_its_warm_up() -> None:
    (stage,) = METHODS["CTM + GAN"].stages("digits")
    assert stage.objective_for(90).gan.start == 30
    ect = METHODS["ECT"].stages("digits")[0]
    assert ect.objective_for(90) is ect.objective
