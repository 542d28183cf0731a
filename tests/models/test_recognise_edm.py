"""SongUNet and DhariwalUNet from the names and shapes of NVlabs/edm's state dicts."""

import dataclasses

import pytest
import torch

from ctm_fast.models import net_from_config
from ctm_fast.models.key_layouts import to_published
from ctm_fast.models.recognise_edm import looks_like_edm, recognise_edm
from tests.models.tiny import ADM, SONG

NCSNPP = dataclasses.replace(
    SONG,
    embedding="fourier",
    encoder="residual",
    channel_mult_noise=2,
    resample_filter=(1, 3, 3, 1),
)
EDM_ADM = dataclasses.replace(ADM, min_group=4, augment_dim=4, channels_per_head=64,
                              model_channels=64)  # fmt: skip


def published(config):
    return to_published(net_from_config(config).state_dict(), config, "edm")


@pytest.mark.parametrize(
    "config",
    [
        SONG,
        NCSNPP,
        EDM_ADM,
        dataclasses.replace(SONG, destination=True, label_dim=0, augment_dim=0),
        dataclasses.replace(SONG, adaptive_scale=True, img_channels=1, attn_resolutions=(8, 4)),
        dataclasses.replace(SONG, channel_mult_emb=2, encoder="skip", decoder="skip"),
        dataclasses.replace(SONG, resample_filter=(1, 2, 3, 3, 2, 1), num_blocks=2),
        dataclasses.replace(EDM_ADM, destination=True, label_dim=0, attn_resolutions=()),
        dataclasses.replace(EDM_ADM, bottleneck_attention=False, channel_mult=(1, 2, 3)),
    ],
)
def test_configurations_come_back(config):
    state = published(config)
    assert looks_like_edm(state)
    found = recognise_edm(state, {"dropout": config.dropout})
    assert (found.config, found.layout, found.output_rows) == (config, "edm", None)


def test_what_is_not_stored_is_said_and_can_be_overridden():
    found = recognise_edm(published(SONG), {})
    assert found.config.dropout == 0.13 and found.notes[0].startswith("dropout=0.13: not stored")
    found = recognise_edm(published(EDM_ADM), {})
    assert found.notes[-1] == "channels_per_head=64: not stored"
    overrides = {"channels_per_head": 32, "dropout": 0.2, "min_group": 1}
    found = recognise_edm(published(EDM_ADM), overrides)
    assert found.config.channels_per_head == 32 and found.config.min_group == 1
    assert not overrides and found.notes == ()


def test_filters_without_values_or_without_filters():
    state = published(NCSNPP)
    on_meta = {name: value.to("meta") for name, value in state.items()}
    assert recognise_edm(on_meta, {}).config.resample_filter == (1, 3, 3, 1)
    bare = {name: value for name, value in state.items() if "resample_filter" not in name}
    found = recognise_edm(bare, {})
    assert found.config.resample_filter == (1, 3, 3, 1)
    assert "resample_filter=(1, 3, 3, 1): not stored" in found.notes
    assert recognise_edm(bare, {"resample_filter": [1, 1]}).config.resample_filter == (1, 1)
    long = {n: torch.empty(1, 1, 6, 6, device="meta") if "resample" in n else v
            for n, v in on_meta.items()}  # fmt: skip
    with pytest.raises(ValueError, match="6 taps need their values"):
        recognise_edm(long, {})
    odd = {n: torch.rand(1, 1, 4, 4) if "resample" in n else v for n, v in state.items()}
    with pytest.raises(ValueError, match="only integers"):
        recognise_edm(odd, {})


@pytest.mark.parametrize("scale", [16.0, 0.02])
def test_published_fourier_scales(scale):
    config = dataclasses.replace(NCSNPP, fourier_scale=scale, dropout=0.13)
    assert recognise_edm(published(config), {}).config == config


def test_twice_the_output_channels():
    state = published(SONG)
    for kind in ("weight", "bias"):
        name = f"dec.8x8_aux_conv.{kind}"
        state[name] = torch.cat([state[name]] * 2)
    assert recognise_edm(state, {}).output_rows == 4
    state["dec.8x8_aux_conv.weight"] = torch.zeros(3, 16, 3, 3)
    with pytest.raises(ValueError, match="takes 2 channels and gives 3"):
        recognise_edm(state, {})


@pytest.mark.parametrize(
    ("name", "new", "message"),
    [
        (
            "enc.8x8_conv.",
            "enc.2x2_conv.",
            "input convolution is at 2 pixels, the first block at 8",
        ),
        ("enc.4x4_", "enc.3x3_", "resolutions .8, 3.; each must be half"),
        ("map_layer0.weight", "map_layer9.weight", "the state has no map_layer0.weight"),
        ("enc.8x8_block0.conv0", "enc.8x8_block0.conv9", "has no enc.8x8_block0.conv0.weight"),
    ],
)
def test_names_that_do_not_fit(name, new, message):
    state = {n.replace(name, new): value for n, value in published(SONG).items()}
    with pytest.raises(ValueError, match=message):
        recognise_edm(state, {})


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("enc.4x4_block0.conv0.weight", (24, 16, 3, 3), "a channel multiplier is 1.5"),
        ("map_layer0.weight", (64,), "map_layer0.weight has shape .64,.; expected 2 dimensions"),
        ("map_layer0.weight", (40, 16), "channel_mult_emb is 2.5"),
        ("map_label.weight", (3,), "map_label.weight has shape"),
        ("enc.8x8_down.conv0.resample_filter", (2, 2), r"expected \(1, 1, n, n\)"),
    ],
)
def test_shapes_that_do_not_fit(name, shape, message):
    state = published(SONG)
    name = name if name in state else next(n for n in state if n.endswith("resample_filter"))
    with pytest.raises(ValueError, match=message):
        recognise_edm({**state, name: torch.zeros(shape)}, {})
