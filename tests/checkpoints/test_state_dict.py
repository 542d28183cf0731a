"""Bare state dicts in every layout."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctm_fast.checkpoints.building import built
from ctm_fast.checkpoints.state_dict import read
from ctm_fast.models.key_layouts import to_published
from ctm_fast.noise_embeddings import DiscreteTime, VPTime
from ctm_fast.precond import CM, EDM, Ect, Epsilon, Score
from tests.fixtures import FIXTURES, assert_within, fixture_dir, load_fixture, tolerance
from tests.models.tiny import ADM, SONG, randomised

FUZZ = settings(max_examples=100, deadline=None, derandomize=True)
FIXTURE = "edm_songunet_ddpmpp"
EDM_ADM = dataclasses.replace(ADM, min_group=4)


def state_of(config, layout, prefix=""):
    net = randomised(config).float()
    return to_published(net.state_dict(), config, layout, prefix), net


@pytest.mark.parametrize("prefix", ["", "net.", "_orig_mod.module."])
@pytest.mark.parametrize(
    ("config", "layout", "overrides", "embedding"),
    [
        (SONG, "edm", {}, "quarter_log"),
        (EDM_ADM, "edm", {"channels_per_head": 32}, "quarter_log"),
        (SONG, "own", {}, "quarter_log"),
        (ADM, "own", {"channels_per_head": 32}, "log_250"),
        (EDM_ADM, "own", {"channels_per_head": 32, "min_group": 4}, "quarter_log"),
        (ADM, "adm", {"channels_per_head": 32, "img_resolution": 8, "kind": "denoiser"},
         "log_250"),
        (dataclasses.replace(SONG, destination=True), "edm", {}, "quarter_log"),
        (dataclasses.replace(ADM, destination=True), "own", {"channels_per_head": 32}, "log_250"),
    ],
)  # fmt: skip
def test_every_layout(config, layout, overrides, embedding, prefix):
    state, net = state_of(config, layout, prefix)
    left = dict(overrides)
    found = read(state, left)
    assert (found.layout, found.config.destination, left) == (layout, config.destination, {})
    assert found.precond.inner == EDM(0.5) and found.precond.noise_embedding == embedding
    assert found.kind == ("trajectory" if config.destination else "denoiser")
    denoiser = built(found)
    assert state, "the caller's state is left alone"
    x, sigma = torch.randn(2, 2, 8, 8), torch.tensor([3.0, 0.2])
    to = sigma if config.destination else None
    c_noise = denoiser.precond.c_noise
    with torch.no_grad():
        expected = net(x, c_noise(sigma), None if to is None else c_noise(to))
        assert torch.equal(
            denoiser.net(x, c_noise(sigma), None if to is None else c_noise(to)), expected
        )


def test_diffusers_names_are_left_to_their_reader():
    config = dataclasses.replace(ADM, resampling="block")
    state, _ = state_of(config, "diffusers")
    found = read(state, {"channels_per_head": 32, "img_resolution": 8, "kind": "denoiser"})
    assert (found.format, found.layout) == ("diffusers", "diffusers")


@pytest.mark.parametrize(
    ("overrides", "kind", "inner", "embedding"),
    [
        ({}, "denoiser", EDM(0.5), "quarter_log"),
        ({"kind": "consistency"}, "consistency", CM(0.5), "quarter_log"),
        ({"precond": "ect"}, "consistency", Ect(0.5), "quarter_log"),
        ({"precond": "vp"}, "denoiser", Epsilon(0.5), VPTime()),
        ({"precond": "ve"}, "denoiser", Score(0.5), "half_log"),
        ({"precond": "iddpm"}, "denoiser", Epsilon(0.5), DiscreteTime("iddpm")),
    ],
)
def test_preconditionings(overrides, kind, inner, embedding):
    state, _ = state_of(SONG, "edm")
    found = read(state, dict(overrides))
    assert (found.kind, found.precond.inner) == (kind, inner)
    assert found.precond.noise_embedding == embedding
    said = {note.split("=")[0] for note in found.notes}
    assert {"kind", "precond"} - said == set(overrides)


def test_the_wrapper_of_iddpm_is_known_by_its_table():
    state, _ = state_of(SONG, "edm", "model.")
    for kind in ("weight", "bias"):
        name = f"model.dec.8x8_aux_conv.{kind}"
        state[name] = torch.cat([state[name]] * 2)
    found = read({**state, "u": torch.zeros(1001)}, {})
    assert found.precond.noise_embedding == DiscreteTime("iddpm")
    built(found)


def test_roles_that_cannot_be():
    state, _ = state_of(SONG, "edm")
    with pytest.raises(ValueError, match="no destination embedding, so it cannot be a trajectory"):
        read(state, {"kind": "trajectory"})
    state, _ = state_of(ADM, "adm")
    with pytest.raises(ValueError, match="pass kind='denoiser'"):
        read(state, {})


STATES = {layout: state_of(config, layout)[0] for config, layout in (
    (SONG, "edm"), (ADM, "adm"), (ADM, "own"))}  # fmt: skip


@FUZZ
@given(st.sampled_from(sorted(STATES)), st.data())
def test_damaged_states_are_clear_errors(layout, data):
    state = dict(STATES[layout])
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(state)))
        value = state.pop(name)
        change = data.draw(st.sampled_from(["drop", "rename", "reshape", "nan", "integers"]))
        if change == "rename":
            state[data.draw(st.sampled_from(["", "x", name[:-1], name + ".0"]))] = value
        elif change == "reshape":
            shape = data.draw(st.lists(st.integers(0, 40), max_size=4))
            state[name] = torch.zeros(shape if tuple(shape) != value.shape else [*shape, 2])
        elif change == "nan":
            state[name] = torch.full(value.shape, float("nan"))
        elif change == "integers":
            state[name] = value.to(torch.int64)
    overrides = {"kind": "denoiser", "channels_per_head": 32}
    if layout == "edm":
        overrides.pop("channels_per_head")
    with pytest.raises(ValueError, match=r"\w+ \w+ \w+"):
        built(read(state, overrides))


@pytest.mark.skipif(fixture_dir(FIXTURE) is None, reason="fixture folder not present")
def test_recorded_outputs():
    recorded, meta = load_fixture(FIXTURE)
    denoiser = built(read(FIXTURES / FIXTURE / "weights.safetensors", {}))
    sigma = recorded["sigma_vec"]
    x = recorded["y"] + sigma.reshape(-1, 1, 1, 1) * recorded["n"]
    with torch.no_grad():
        out = denoiser(x, sigma, recorded["class_labels"])
    assert_within(out, recorded["D_vec"], tolerance(meta, "D_vec"))
