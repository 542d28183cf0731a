"""Published numbers for ImageNet-64."""

import math

import pytest

from ctm_fast.presets import PRESETS

EDM2 = ("ect", "sct", "tcm", "scm", "ayf")


def test_ect() -> None:
    preset = PRESETS["ect-imagenet64"]
    objective, train = preset.objective(), preset.train()
    assert objective.gap.factor(objective.gap.stages - 1) == 1 / 256
    assert train.steps // objective.gap.stages == 25_000
    assert (objective.weighting, objective.distance.c) == ("karras", 0.06)
    assert train.learning_rate(8_000) == pytest.approx(5e-4)
    assert preset.middle == 1.526


def test_cm() -> None:
    cd, ct = PRESETS["cd-imagenet64"], PRESETS["ct-imagenet64"]
    assert (cd.objective().scales.num_scales(0), cd.objective().decay) == (40, 0.95)
    assert ct.objective().scales.num_scales(1) == 201
    assert (cd.train().lr, ct.train().lr) == (8e-6, 1e-4)
    assert ct.start == "teacher"


def test_tcm() -> None:
    first, second = (PRESETS[f"tcm-imagenet64-stage{k}"] for k in (1, 2))
    gap = first.objective().gap
    assert gap.factor(gap.stages - 1) == pytest.approx(1 / 256, abs=1e-5)
    assert gap.factor(3) == second.objective().gap.factor(0)
    assert (second.train().lr, second.train().lr_decay_from) == (5e-4, 8_000)


def test_scm() -> None:
    for name in ("scm-ct-imagenet64", "scm-cd-imagenet64"):
        preset = PRESETS[name]
        assert preset.objective().warmup * preset.train().steps == pytest.approx(10_000)
        assert preset.train().eps == 1e-11
        assert preset.middle == pytest.approx(0.5 * math.tan(1.1), abs=1e-3)


def test_networks_that_are_not_the_published_ones_say_so() -> None:
    for name, preset in PRESETS.items():
        if "imagenet64" in name and preset.objective_name in EDM2:
            assert "EDM2" in preset.note
            assert "not in this library" in preset.sources["network"]
