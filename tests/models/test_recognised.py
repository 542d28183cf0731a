"""Settling a configuration from what is seen, assumed and asked for."""

import pytest
import torch

from ctm_fast.models import SongConfig
from ctm_fast.models.recognised import Assumed, multiple, settled_config, shape_of


def test_seen_assumed_and_overridden_fields():
    overrides = {"dropout": 0.5, "channel_mult": [1, 2], "kind": "denoiser"}
    assumed = {
        "dropout": Assumed(0.2, "dropout: not stored"),
        "label_dropout": Assumed(0.1, "label_dropout: not stored"),
        "fourier_scale": Assumed(0.02),
    }
    seen = {"img_channels": 1, "channel_mult": (1, 2), "attn_resolutions": ()}
    config, notes = settled_config(SongConfig, seen, assumed, overrides)
    assert config == SongConfig(
        img_channels=1,
        channel_mult=(1, 2),
        attn_resolutions=(),
        dropout=0.5,
        label_dropout=0.1,
        fourier_scale=0.02,
    )
    assert notes == ["label_dropout: not stored"]
    assert overrides == {"kind": "denoiser"}


def test_overrides_that_contradict_the_state():
    with pytest.raises(ValueError, match="img_channels=3 was asked for; the state has 1"):
        settled_config(SongConfig, {"img_channels": 1}, {}, {"img_channels": 3})


def test_shapes_are_looked_up_with_care():
    state = {"a": torch.zeros(2, 3), "empty": torch.zeros(0, 3)}
    assert shape_of(state, "a", 2) == (2, 3)
    with pytest.raises(ValueError, match="the state has no b"):
        shape_of(state, "b", 2)
    for name, ndim in (("a", 4), ("empty", 2)):
        with pytest.raises(ValueError, match=f"{name} has shape .* expected {ndim} dimensions"):
            shape_of(state, name, ndim)


def test_only_whole_multiples():
    assert multiple(96, 32, "a multiplier") == 3
    with pytest.raises(ValueError, match=r"a multiplier is 0\.5, from 16 channels of 32"):
        multiple(16, 32, "a multiplier")
