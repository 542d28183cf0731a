"""Networks by name: sizes, JSON, errors."""

import json

import pytest
import torch

from ctm_fast.models import (
    PRESETS,
    ADMConfig,
    SongConfig,
    build,
    config_from_json,
    config_to_json,
    net_from_json,
)


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def on_meta(name, **overrides):
    with torch.device("meta"):
        return build(name, **overrides)


@pytest.mark.parametrize(
    ("name", "overrides", "count"),
    [
        ("ddpmpp-cifar10", {}, 55_732_739),
        ("ddpmpp-cifar10", {"label_dim": 10}, 55_734_147),
        ("ddpmpp-cifar10", {"augment_dim": 9}, 55_733_891),
        ("ctm-ddpmpp-cifar10", {}, 60_395_267),
        ("ctm-ddpmpp-cifar10", {"label_dim": 10}, 60_396_675),
        ("ncsnpp-cifar10", {"augment_dim": 9}, 56_397_827),
        ("adm-imagenet64", {}, 295_899_267),
        ("adm-imagenet64", {"min_group": 4}, 295_899_267),
        ("ctm-adm-imagenet64", {}, 324_100_611),
    ],
)
def test_published_parameter_counts(name, overrides, count):
    assert parameters(on_meta(name, **overrides)) == count


def test_small_networks_are_small():
    assert 1e6 < parameters(on_meta("digits")) < 1.5e6
    assert parameters(on_meta("photo-patches")) < 5e6


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_has_a_student(name):
    net = on_meta(name)
    assert net.has_destination == name.startswith("ctm-")
    if not name.startswith("ctm-"):
        assert f"ctm-{name}" in PRESETS


@pytest.mark.parametrize("name", ["digits", "ctm-digits", "photo-patches"])
def test_small_presets_run(name):
    net = build(name)
    x = torch.zeros(2, net.img_channels, net.img_resolution, net.img_resolution)
    level = torch.zeros(2)
    out = net(x, level, level if net.has_destination else None)
    assert out.shape == x.shape and out.isfinite().all()


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name):
    text = json.dumps(config_to_json(PRESETS[name]))
    assert config_from_json(json.loads(text)) == PRESETS[name]


def test_network_from_json():
    net = build("digits", dropout=0.1)
    again = net_from_json(json.loads(json.dumps(config_to_json(net.config))))
    assert again.config == net.config
    again.load_state_dict(net.state_dict())


def test_families_are_told_apart():
    assert config_to_json(SongConfig())["family"] == "song"
    assert config_to_json(ADMConfig())["family"] == "adm"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build("unet"), "unknown network 'unet'; choose from"),
        (lambda: build("digits", width=3), r"no fields \['width'\]"),
        (lambda: net_from_json({"family": "dit"}), "unknown network family 'dit'"),
        (lambda: net_from_json({"dropout": 0.1}), "unknown network family None"),
        (lambda: net_from_json({"family": "song", "wdith": 3}), r"unknown fields \['wdith'\]"),
        (lambda: config_to_json("digits"), "not a network configuration"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_building_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    build("digits")
    assert torch.equal(torch.get_rng_state(), before)


def test_teacher_and_student_of_one_seed_share_their_weights():
    teacher, student = (
        build("digits", seed=3).state_dict(),
        build("ctm-digits", seed=3).state_dict(),
    )
    assert all(torch.equal(value, student[name]) for name, value in teacher.items())
