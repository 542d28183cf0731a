"""ADM networks from the names and shapes of openai's and sony/ctm's state dicts."""

import dataclasses

import pytest
import torch

from ctm_fast.models import net_from_config
from ctm_fast.models.key_layouts import to_published
from ctm_fast.models.recognise_adm import looks_like_adm, recognise_adm
from tests.models.tiny import ADM

UNSEEN = {"img_resolution": 8, "channels_per_head": 32, "dropout": 0.2}


def published(config, layout="adm"):
    return to_published(net_from_config(config).state_dict(), config, layout)


@pytest.mark.parametrize(
    "config",
    [
        ADM,
        dataclasses.replace(ADM, destination=True, label_dim=0),
        dataclasses.replace(ADM, adaptive_scale=False, img_channels=1),
        dataclasses.replace(ADM, channel_mult=(1, 2, 3), num_blocks=2, attn_resolutions=(8, 2)),
        dataclasses.replace(ADM, channel_mult=(2, 1), attn_resolutions=()),
        dataclasses.replace(ADM, channel_mult=(1,), attn_resolutions=(8,)),
        dataclasses.replace(ADM, bottleneck_attention=False, num_blocks=3),
        dataclasses.replace(ADM, resampling="conv", adaptive_scale=False, num_blocks=2),
        dataclasses.replace(ADM, channel_mult_emb=2),
    ],
)
def test_configurations_come_back(config):
    state = published(config)
    assert looks_like_adm(state)
    found = recognise_adm(state, dict(UNSEEN))
    assert (found.config, found.layout, found.output_rows) == (config, "adm", None)


def test_what_is_not_stored_is_said_and_can_be_overridden():
    config = dataclasses.replace(ADM, channel_mult=(2, 2), attn_resolutions=(4,))
    found = recognise_adm(published(config), {})
    assert found.config.img_resolution == 64 and found.config.attn_resolutions == (32,)
    assert found.config.channels_per_head == 64 and found.config.dropout == 0.1
    fields = ("img_resolution=64", "attention_order='new'", "dropout", "channels_per_head=64")
    assert [note.split(":")[0] for note in found.notes] == list(fields)
    overrides = {"num_heads": 4, "attention_order": "legacy", "img_resolution": 8, "dropout": 0}
    found = recognise_adm(published(config), overrides)
    assert found.config.num_heads == 4 and found.config.channels_per_head == 0
    assert (found.layout, found.notes, overrides) == ("adm-legacy", (), {})


@pytest.mark.parametrize(
    ("mult", "size"),
    [((1, 2, 3, 4), 64), ((1, 1, 2, 3, 4), 128), ((1, 1, 2, 2, 4, 4), 256), ((1, 2), 64)],
)
def test_image_sizes_of_published_networks(mult, size):
    config = dataclasses.replace(ADM, img_resolution=size, channel_mult=mult, attn_resolutions=())
    with torch.device("meta"):
        state = to_published(net_from_config(config).state_dict(), config, "adm")
    assert recognise_adm(state, {}).config.img_resolution == size


def test_attention_of_guided_diffusion():
    """One-dimensional convolutions, or a variance in the output, tell it."""
    flat = {n: v.squeeze(-1) if ".qkv.weight" in n else v for n, v in published(ADM).items()}
    assert recognise_adm(flat, {}).layout == "adm-legacy"
    assert recognise_adm(flat, {"attention_order": "new"}).layout == "adm"
    state = published(ADM)
    state["out.2.weight"] = torch.zeros(4, 32, 3, 3)
    found = recognise_adm(state, {})
    assert (found.layout, found.output_rows) == ("adm-legacy", 4)
    with pytest.raises(ValueError, match="unknown attention_order 'old'; choose from"):
        recognise_adm(state, {"attention_order": "old"})


@pytest.mark.parametrize(
    ("channels", "rows", "message"),
    [(2, 3, "takes 2 channels and gives 3"), (6, 6, "super-resolution"), (6, 3, "super-")],
)
def test_outputs_that_are_no_image(channels, rows, message):
    state = published(ADM)
    state["input_blocks.0.0.weight"] = torch.zeros(32, channels, 3, 3)
    state["out.2.weight"] = torch.zeros(rows, 32, 3, 3)
    with pytest.raises(ValueError, match=message):
        recognise_adm(state, {})
    if channels == rows:
        assert recognise_adm(state, {"img_channels": 6}).config.img_channels == 6


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("input_blocks.2.", "gaps in their numbers"),
        ("input_blocks.3.", "3 input blocks do not divide into 2 resolutions"),
        ("output_blocks.", "no output_blocks"),
        ("input_blocks.1.0.emb_layers", "has no input_blocks.1.0.emb_layers.1.weight"),
    ],
)
def test_parts_that_are_missing(names, message):
    state = {n: v for n, v in published(ADM).items() if not n.startswith(names)}
    with pytest.raises(ValueError, match=message):
        recognise_adm(state, {})


def test_half_multipliers():
    """guided-diffusion's 512-pixel network begins with half of its model_channels."""
    config = dataclasses.replace(
        ADM,
        img_resolution=512,
        channel_mult=(1, 2, 2, 4, 4, 8, 8),
        channel_mult_noise=2,
        channel_mult_emb=8,
        attn_resolutions=(32, 16, 8),
    )
    with torch.device("meta"):
        state = to_published(net_from_config(config).state_dict(), config, "adm")
    assert state["time_embed.0.weight"].shape == (256, 64)
    found = recognise_adm(state, {"channels_per_head": 32, "dropout": 0.2})
    assert found.config == config and found.config.img_resolution == 512


def test_odd_embeddings():
    state = published(ADM)
    state["time_embed.0.weight"] = torch.zeros(100, 32)
    with pytest.raises(ValueError, match=r"channel_mult_emb is 3\.125"):
        recognise_adm(state, {})
