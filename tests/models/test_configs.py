"""Configurations refuse what cannot be built."""

import dataclasses

import pytest

from ctm_fast.models import ADMConfig, SongConfig
from ctm_fast.models.configs import resolutions


@pytest.mark.parametrize("cls", [SongConfig, ADMConfig])
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("img_resolution", 30, "does not divide by"),
        ("img_resolution", 0, "img_resolution must be at least 1"),
        ("attn_resolutions", (16, 12), r"attn_resolutions \[12\] do not occur"),
        ("channel_mult", (), "channel_mult"),
        ("dropout", 1.0, r"dropout must be in \[0, 1\)"),
        ("label_dropout", -0.1, "label_dropout"),
        ("label_dim", -1, "label_dim"),
        ("num_blocks", 0, "num_blocks"),
        ("model_channels", 33, "even"),
    ],
)
def test_values_out_of_range(cls, field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(cls(), **{field: value})


@pytest.mark.parametrize(
    ("field", "value"), [("embedding", "sine"), ("encoder", "unet"), ("decoder", "residual")]
)
def test_unknown_choices(field, value):
    with pytest.raises(ValueError, match=f"unknown {field} '{value}'; choose from"):
        SongConfig(**{field: value})


@pytest.mark.parametrize("field", ["channels_per_head", "min_group"])
def test_adm_numbers(field):
    with pytest.raises(ValueError, match=field):
        ADMConfig(**{field: 0})


def test_resolutions():
    assert resolutions(SongConfig()) == [32, 16, 8]
    assert resolutions(ADMConfig()) == [64, 32, 16, 8]


def test_configurations_are_values():
    assert SongConfig() == SongConfig() and hash(SongConfig()) == hash(SongConfig())
    with pytest.raises(dataclasses.FrozenInstanceError):
        SongConfig().dropout = 0.5  # type: ignore[misc]
