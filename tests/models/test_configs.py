"""Configurations refuse what cannot be built."""

import dataclasses

import pytest

from ctm_fast.models import ADMConfig, SongConfig, config_from_json
from ctm_fast.models.configs import resolutions

# Every field of the first version that was published.
OLD_ADM = {
    "img_resolution": 32, "img_channels": 3, "label_dim": 1000, "augment_dim": 0,
    "model_channels": 192, "channel_mult": [1, 2], "channel_mult_emb": 4, "num_blocks": 3,
    "attn_resolutions": [32, 16], "bottleneck_attention": True, "channels_per_head": 64,
    "min_group": 1, "adaptive_scale": True, "dropout": 0.1, "label_dropout": 0.0,
    "destination": False,
}  # fmt: skip


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


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels_per_head": -1}, "channels_per_head must be at least 0, got -1"),
        ({"min_group": 0}, "min_group must be at least 1, got 0"),
        ({"max_groups": 0}, "max_groups must be at least 1, got 0"),
        ({"channels_per_head": 0, "num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"num_heads": 4}, "num_heads=4 needs channels_per_head=0, got 64"),
        ({"eps": 0.0}, "eps must be positive, got 0.0"),
        ({"eps": float("nan")}, "eps must be positive, got nan"),
        ({"resampling": "fir"}, "unknown resampling 'fir'; choose from"),
        ({"conv_padding": "before"}, "unknown conv_padding 'before'; choose from"),
        ({"model_channels": 2, "endpoint": True}, "endpoint needs at least 4 noise channels"),
        ({"model_channels": 5, "channel_mult_noise": 3}, "must be even, got 15"),
    ],
)
def test_adm_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        ADMConfig(**fields)


def test_configurations_written_before_a_field_was_added_are_read():
    found = config_from_json({"family": "adm", **OLD_ADM})
    assert found == ADMConfig(img_resolution=32, channel_mult=(1, 2), attn_resolutions=(32, 16))


def test_resolutions():
    assert resolutions(SongConfig()) == [32, 16, 8]
    assert resolutions(ADMConfig()) == [64, 32, 16, 8]


def test_configurations_are_values():
    assert SongConfig() == SongConfig() and hash(SongConfig()) == hash(SongConfig())
    with pytest.raises(dataclasses.FrozenInstanceError):
        SongConfig().dropout = 0.5  # type: ignore[misc]
