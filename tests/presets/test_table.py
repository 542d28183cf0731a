"""All presets: they can be built, every number has a source, and the published ones are right."""

import re
from pathlib import Path

import pytest

from ctm_fast import models
from ctm_fast.losses import OBJECTIVES
from ctm_fast.presets import PRESETS, preset_named

EVERY = [
    *("objective.", "train.", "net."),
    *("network", "data", "start", "middle", "sigma_min", "sigma_max", "sigma_data"),
]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_everything_can_be_built_and_has_a_source(name: str) -> None:
    preset = PRESETS[name]
    assert preset.name == name
    assert OBJECTIVES.name_of(preset.objective()) == preset.objective_name
    assert preset.train().batch_size > 1
    kind = getattr(preset.objective(), "student_kind", None)
    network = models.PRESETS[preset.network]
    assert network.destination == (kind == "trajectory" or preset.objective_name.startswith("ctm"))
    assert set(preset.net_options) <= set(vars(network))
    for value, _, source in preset:
        assert source.strip(), value
        assert value.startswith(tuple(EVERY)), value
    for field in ("steps", "batch_size", "lr", "optimizer", "ema"):
        assert f"train.{field}" in preset.sources
    assert "network" in preset.sources and "start" in preset.sources


def test_every_method_has_a_preset_for_every_data_set() -> None:
    methods = {"cm", "ict", "ect", "sct", "tcm", "scm"}
    for data, also in [
        ("cifar10", {"dsm", "meanflow", "ctm", "ctm_gan"}),
        ("imagenet64", {"dsm", "ayf", "ctm", "ctm_gan"}),
        ("digits", {"meanflow", "ayf", "ctm", "dsm", "pd"}),
    ]:
        found = {p.objective_name for n, p in PRESETS.items() if data in n.split("-")}
        assert found == methods | also, data


def test_names() -> None:
    assert preset_named("ect-cifar10") is PRESETS["ect-cifar10"]
    with pytest.raises(ValueError, match="unknown preset 'ect-cifar'; choose from"):
        preset_named("ect-cifar")


def test_the_document_names_what_there_is() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "methods.md").read_text()
    named = set(re.findall(r"objective:([a-z_]+)", text))
    assert named == set(OBJECTIVES.names())
    table = re.findall(r"`([a-z0-9*-]+-(?:digits|cifar10\S*|imagenet64|stage\d|\*))`", text)
    for pattern in table:
        found = re.compile(pattern.replace("*", ".*"))
        assert any(found.fullmatch(name) for name in PRESETS), pattern
    assert all(any(re.fullmatch(p.replace("*", ".*"), n) for p in table) for n in PRESETS)
