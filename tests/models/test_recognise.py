"""Every preset and recorded network comes back from its names and shapes; damage is an error."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctm_fast.models import PRESETS, ADMConfig, SongConfig, net_from_config
from ctm_fast.models.key_layouts import to_published, without_prefix
from ctm_fast.models.recognise import RECOGNISERS, recognise
from tests.fixtures import FIXTURES, fixture_dir
from tests.models.tiny import ADM, SONG

FULL = "fullsize_state_dict_shapes"
FEW = settings(max_examples=40, deadline=None, derandomize=True)
FUZZ = settings(max_examples=150, deadline=None, derandomize=True)
CHANGES = [{}, {"label_dim": 10}, {"destination": True}, {"label_dim": 0, "img_channels": 1}]


def meta_state(config, layout):
    with torch.device("meta"):
        net = net_from_config(config)
    return to_published(net.state_dict(), config, layout)


def unseen(config, layout):
    """Overrides for the fields that names and shapes do not show."""
    given = {"dropout": config.dropout, "label_dropout": config.label_dropout}
    if isinstance(config, ADMConfig):
        given["channels_per_head"] = config.channels_per_head
        if layout.startswith("adm"):
            given["img_resolution"] = config.img_resolution
            given["attention_order"] = "legacy" if layout == "adm-legacy" else "new"
        else:
            given["min_group"] = config.min_group
    return given


def layouts(config):
    if isinstance(config, SongConfig):
        return ["edm", "own"]
    return ["adm", "adm-legacy", "edm", "own"] if not config.augment_dim else ["edm", "own"]


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("name", PRESETS)
def test_presets_come_back(name, change):
    config = dataclasses.replace(PRESETS[name], **change)
    for layout in layouts(config):
        given = unseen(config, layout)
        found = recognise(meta_state(config, layout), given)
        assert (found.config, found.layout, given) == (config, layout, {})


def recorded():
    folder = fixture_dir(FULL)
    return sorted(p.stem for p in folder.glob("*.json") if p.stem != "meta") if folder else []


@pytest.mark.skipif(fixture_dir(FULL) is None, reason="fixture folder not present")
@pytest.mark.parametrize("name", recorded())
def test_recorded_names_and_shapes(name):
    shapes = json.loads((FIXTURES / FULL / f"{name}.json").read_text())["state_dict"]
    state = {n: torch.empty(shape, device="meta") for n, shape in shapes.items()}
    bare = without_prefix(state)
    found = recognise(bare)
    again = meta_state(found.config, found.layout)
    assert {n: v.shape for n, v in again.items()} == {n: v.shape for n, v in bare.items()}


levels = st.integers(1, 3).flatmap(
    lambda n: st.lists(st.integers(1, 2), min_size=n, max_size=n).map(tuple)
)


@st.composite
def songs(draw):
    mult = draw(levels)
    sizes = [16 >> level for level in range(len(mult))]
    several = len(mult) > 1
    return SongConfig(
        img_resolution=16,
        img_channels=draw(st.integers(1, 4)),
        label_dim=draw(st.sampled_from([0, 1, 7])),
        augment_dim=draw(st.sampled_from([0, 1, 9])),
        model_channels=draw(st.sampled_from([8, 16, 32])),
        channel_mult=mult,
        channel_mult_emb=draw(st.integers(1, 4)),
        channel_mult_noise=draw(st.integers(1, 2)),
        num_blocks=draw(st.integers(1, 3)),
        attn_resolutions=tuple(s for s in sizes if draw(st.booleans())),
        embedding=draw(st.sampled_from(["positional", "fourier"])),
        encoder=draw(st.sampled_from(["standard", "skip", "residual"])) if several else "standard",
        decoder=draw(st.sampled_from(["standard", "skip"])) if several else "standard",
        resample_filter=draw(st.sampled_from([(1, 1), (1, 3, 3, 1)])) if several else (1, 1),
        adaptive_scale=draw(st.booleans()),
        destination=draw(st.booleans()),
    )


@st.composite
def adms(draw):
    mult = draw(levels)
    return ADMConfig(
        img_resolution=16,
        img_channels=draw(st.integers(1, 4)),
        label_dim=draw(st.sampled_from([0, 1, 7])),
        model_channels=32,
        channel_mult=mult,
        channel_mult_emb=draw(st.integers(1, 4)),
        num_blocks=draw(st.integers(1, 3)),
        attn_resolutions=tuple(16 >> i for i in range(len(mult)) if draw(st.booleans())),
        bottleneck_attention=draw(st.booleans()),
        channels_per_head=draw(st.sampled_from([16, 32])),
        adaptive_scale=draw(st.booleans()),
        destination=draw(st.booleans()),
        resampling=draw(st.sampled_from(["block", "conv"])) if len(mult) > 1 else "block",
    )


@FEW
@given(songs())
def test_any_small_song_comes_back(config):
    found = recognise(meta_state(config, "edm"), unseen(config, "edm"))
    assert (found.config, found.layout) == (config, "edm")


@FEW
@given(adms(), st.sampled_from(["adm", "adm-legacy"]))
def test_any_small_adm_comes_back(config, layout):
    found = recognise(meta_state(config, layout), unseen(config, layout))
    attends = config.attn_resolutions or config.bottleneck_attention
    assert found.config == config
    assert found.layout == (layout if attends else "adm")


STATES = {layout: meta_state(config, layout) for config, layout in (
    (SONG, "edm"), (ADM, "adm"), (ADM, "own"), (ADM, "diffusers"))}  # fmt: skip


@FUZZ
@given(st.sampled_from(sorted(STATES)), st.data())
def test_damaged_states_are_clear_errors(layout, data):
    state = dict(STATES[layout])
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from(sorted(state)))
        value = state.pop(name)
        change = data.draw(st.sampled_from(["drop", "rename", "reshape"]))
        if change == "rename":
            state[data.draw(st.sampled_from(["", "x", name[:-1], name + ".0", "enc.9x9_"]))] = value
        elif change == "reshape":
            shape = data.draw(st.lists(st.integers(0, 64), max_size=5))
            state[name] = torch.empty(shape, device="meta")
    try:
        found = recognise(state)
    except ValueError as error:
        assert len(str(error)) > 20
    else:
        assert found.layout in ("edm", "adm", "adm-legacy", "own", "diffusers")


def test_other_things_say_what_they_look_like():
    state = {"lin0.model.1.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"looks like weights of the LPIPS distance \(1 keys, for"):
        recognise(state)
    with pytest.raises(ValueError, match="an empty file"):
        recognise({})
    with pytest.raises(ValueError, match="maps names to tensors"):
        recognise({"a": 1})


def test_layouts_have_one_recogniser_each():
    assert len({fits for fits, _ in RECOGNISERS}) == len(RECOGNISERS)
