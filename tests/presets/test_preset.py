"""Values of a preset, and where each comes from."""

import pytest

from ctm_fast.gaps import SigmoidGap
from ctm_fast.losses import ECT
from ctm_fast.presets import Preset, said
from ctm_fast.trainer import TrainConfig

PAPER = said(
    "a paper",
    objective={"weighting": "karras"},
    train={"lr": 0.5, "steps": 7},
    net={"dropout": 0.25},
    network="ddpmpp-cifar10",
    start="teacher",
)


def test_what_it_makes() -> None:
    preset = Preset("one", "ect", PAPER)
    assert preset.objective() == ECT(weighting="karras")
    assert preset.train() == TrainConfig(lr=0.5, steps=7)
    assert (preset.network, preset.net_options) == ("ddpmpp-cifar10", {"dropout": 0.25})
    assert (preset.start, preset.data, preset.middle) == ("teacher", None, None)
    assert preset.sigma_range is None
    assert dict.fromkeys(name for name, _, _ in preset) == dict.fromkeys(PAPER.values)
    assert {source for _, _, source in preset} == {"a paper"}


def test_later_sources_count() -> None:
    code = said("code", objective={"gap": SigmoidGap(q=4)}, train={"lr": 0.1}, start="random")
    levels = said("ours", sigma_min=0.01, sigma_max=9, middle=1.0, data="digits")
    preset = Preset("two", "ect", PAPER, code, levels, note="a note")
    assert preset.train() == TrainConfig(lr=0.1, steps=7)
    assert preset.sources["train.lr"] == "code"
    assert preset.sources["train.steps"] == "a paper"
    assert (preset.sigma_range, preset.middle, preset.data) == ((0.01, 9.0), 1.0, "digits")
    assert preset.start == "random"
    assert Preset("three", "ect", PAPER.by("hearsay")).sources["train.lr"] == "hearsay"


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="a preset has no 'objetive'"):
        said("a paper", objetive={})
    with pytest.raises(ValueError, match="start is 'somewhere'"):
        Preset("one", "ect", said("a paper", start="somewhere"))
    with pytest.raises(TypeError, match="unexpected keyword"):
        Preset("one", "ect", said("a paper", objective={"wait": 1})).objective()
