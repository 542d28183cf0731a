"""UNet2DModel from the names and shapes of its state alone."""

import dataclasses

import pytest
import torch

from ctm_fast.models.diffusers_config import from_options
from ctm_fast.models.recognise import recognise
from ctm_fast.models.recognise_diffusers import looks_like_diffusers, recognise_diffusers
from tests.diffusers_models import FAMILIES, library, tiny

# What the shapes do not show, and the tiny models have otherwise than published networks.
TOLD = ("channels_per_head", "max_groups", "eps", "sin_first", "endpoint", "conv_padding")


def asked(model, *names):
    config = from_options(model.config).config
    return config, {name: getattr(config, name) for name in names}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_seen_and_what_is_told(family):
    model = tiny(family)
    config, overrides = asked(model, *TOLD, "img_resolution", "dropout")
    assert looks_like_diffusers(model.state_dict())
    found = recognise(model.state_dict(), overrides)
    resampling = config.resampling
    if len(config.channel_mult) == 1:  # nothing shows how it would resample
        resampling = found.config.resampling
    assert found.config == dataclasses.replace(config, resampling=resampling)
    assert found.layout == "diffusers" and not overrides
    assert [note for note in found.notes if "num_heads" not in note] == []


def test_published_defaults_are_taken_and_said():
    cd = {**FAMILIES["consistency"], "block_out_channels": (64, 128), "norm_num_groups": 32,
          "attn_norm_num_groups": 32, "attention_head_dim": 64}  # fmt: skip
    ddpm = {**FAMILIES["ddpm"], "block_out_channels": (32, 64, 64), "norm_num_groups": 32}
    for options, what in ((cd, "openai's consistency models"), (ddpm, "google's DDPMs")):
        with torch.device("meta"):
            state = library().UNet2DModel(**options).state_dict()
        found = recognise(state, {})
        expected = from_options({**options, "sample_size": 32}).config
        assert found.config == expected
        assert found.notes[0].startswith("img_resolution=32: not stored")
        assert f"eps={expected.eps}" in found.notes[1] and what in found.notes[1]


def test_overrides():
    state = tiny("ddpm").state_dict()
    found = recognise_diffusers(state, {"max_groups": 4, "num_heads": 2, "channels_per_head": 0})
    assert found.config.num_heads == 2
    with pytest.raises(ValueError, match=r"channels do not divide into 32 groups.*pass max_groups"):
        recognise_diffusers(state, {})
    with pytest.raises(ValueError, match="num_blocks=3 was asked for; the state has 2"):
        recognise_diffusers(state, {"max_groups": 4, "num_blocks": 3})


def test_a_predicted_variance():
    state = tiny("ddpm", out_channels=6).state_dict()
    assert recognise_diffusers(state, {"max_groups": 4}).output_rows == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"down_blocks.0.attentions.0.transformer_blocks.0.x": None}, "guided by text"),
        ({"conv_in.weight": torch.zeros(8)}, r"conv_in.weight has shape \(8,\)"),
        ({"down_blocks.7.resnets.0.conv1.weight": torch.zeros(1)}, "no whole sequence"),
        ({"conv_out.weight": torch.zeros(4, 8, 3, 3)}, "out_channels=4 is not supported"),
    ],
)
def test_states_that_do_not_fit(change, message):
    state = {**tiny("ddpm").state_dict(), **change}
    with pytest.raises(ValueError, match=message):
        recognise_diffusers(state, {"max_groups": 4})


def test_other_states_do_not_look_like_it():
    state = tiny("ddpm").state_dict()
    assert not looks_like_diffusers({})
    assert not looks_like_diffusers({n: v for n, v in state.items() if n != "conv_out.weight"})
