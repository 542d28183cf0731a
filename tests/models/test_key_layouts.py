"""Published state dicts: names and shapes, attention rows, errors."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import torch

from ctm_fast.models import build, net_from_config
from ctm_fast.models.key_layouts import LAYOUTS, from_published, to_published, without_prefix
from tests.fixtures import fixture_dir
from tests.models.tiny import ADM, SONG, randomised

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "published_state_dicts.json").read_text()
)
FULL = "fullsize_state_dict_shapes"
PUBLISHED = {
    "ctm_cifar10_uncond": ("ctm-ddpmpp-cifar10", {}, "edm", "model."),
    "ctm_cifar10_cond": ("ctm-ddpmpp-cifar10", {"label_dim": 10}, "edm", "model."),
    "ctm_imagenet64_student": ("ctm-adm-imagenet64", {}, "adm", ""),
    "edm_imagenet64_openai_layout": ("adm-imagenet64", {}, "adm", ""),
    "edm_cifar10_uncond_vp": ("ddpmpp-cifar10", {"augment_dim": 9}, "edm", "model."),
    "edm_cifar10_cond_vp": (
        "ddpmpp-cifar10", {"augment_dim": 9, "label_dim": 10}, "edm", "model."
    ),
    "edm_cifar10_uncond_ve": ("ncsnpp-cifar10", {"augment_dim": 9}, "edm", "model."),
    "diffusers_cd_imagenet64": ("adm-imagenet64", {}, "diffusers", ""),
    "edm_imagenet64_cond_adm": ("adm-imagenet64", {"min_group": 4}, "edm", "model."),
}  # fmt: skip


def summary(shapes):
    """Count and digest of names and shapes."""
    lines = "\n".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items()))
    return {"tensors": len(shapes), "sha256": hashlib.sha256(lines.encode()).hexdigest()}


def test_golden_summaries_are_those_of_the_recorded_lists():
    folder = fixture_dir(FULL)
    if folder is None:
        assert set(GOLDEN) == set(PUBLISHED)
        return
    for name in PUBLISHED:
        recorded = json.loads((folder / f"{name}.json").read_text())["state_dict"]
        assert summary(recorded) == GOLDEN[name], name


@pytest.mark.parametrize("name", PUBLISHED)
def test_full_size_names_and_shapes(name):
    preset, overrides, layout, prefix = PUBLISHED[name]
    with torch.device("meta"):
        net = build(preset, **overrides)
    published = to_published(net.state_dict(), net.config, layout, prefix)
    assert summary({k: v.shape for k, v in published.items()}) == GOLDEN[name]
    native = from_published(published, net.config, layout)
    assert {k: v.shape for k, v in native.items()} == {
        k: v.shape for k, v in net.state_dict().items()
    }


CASES = [
    (SONG, "edm"),
    (dataclasses.replace(SONG, destination=True, encoder="residual", decoder="skip",
                         embedding="fourier", resample_filter=(1, 3, 3, 1)), "edm"),
    (dataclasses.replace(SONG, encoder="skip"), "edm"),
    (ADM, "edm"),
    (ADM, "adm"),
    (dataclasses.replace(ADM, destination=True, channels_per_head=16), "adm-legacy"),
    (dataclasses.replace(ADM, bottleneck_attention=False, attn_resolutions=(8,)), "adm"),
    (dataclasses.replace(ADM, channels_per_head=0, num_heads=4, resampling="conv"), "adm-legacy"),
    (ADM, "diffusers"),
    (dataclasses.replace(ADM, channels_per_head=0, resampling="conv", label_dim=0,
                         bottleneck_attention=False), "diffusers"),
]  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
@pytest.mark.parametrize(("config", "layout"), CASES)
def test_round_trip(config, layout, prefix):
    state = randomised(config).state_dict()
    published = to_published(state, config, layout, prefix)
    assert all(name.startswith(prefix) and v.is_contiguous() for name, v in published.items())
    again = from_published(published, config, layout)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], value) for name, value in state.items())


def test_rows_of_every_layout():
    """Two heads of width two, queries 0, keys 10, values 20; then head, then position."""
    ours = torch.tensor([0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23])
    published = {
        "edm": [0, 10, 20, 1, 11, 21, 2, 12, 22, 3, 13, 23],
        "adm": ours.tolist(),
        "adm-legacy": [0, 1, 10, 11, 20, 21, 2, 3, 12, 13, 22, 23],
    }
    for name, rows in published.items():
        assert LAYOUTS[name].rows_out(ours, 2).tolist() == rows
        assert LAYOUTS[name].rows_in(torch.tensor(rows), 2).tolist() == ours.tolist()


def test_one_dimensional_convolutions_are_accepted():
    published = to_published(net_from_config(ADM).state_dict(), ADM, "adm")
    name = next(name for name in published if name.endswith("qkv.weight"))
    published[name] = published[name].squeeze(-1)
    from_published(published, ADM, "adm")


def test_left_over_missing_and_misshapen_are_named():
    published = to_published(net_from_config(SONG).state_dict(), SONG, "edm")
    extra = {**published, "enc.64x64_conv.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"left over 1 \(enc.64x64_conv.weight\)"):
        from_published(extra, SONG, "edm")
    fewer = {k: v for k, v in published.items() if k != "map_label.weight"}
    with pytest.raises(ValueError, match=r"missing 1 \(map_label.weight\), left over none"):
        from_published(fewer, SONG, "edm")
    wrong = {**published, "map_label.weight": torch.zeros(3, 16)}
    with pytest.raises(ValueError, match=r"map_label.weight has shape \(3, 16\); .* \(16, 3\)"):
        from_published(wrong, SONG, "edm")
    with pytest.raises(ValueError, match="missing 1"):
        to_published({k: v for k, v in net_from_config(SONG).state_dict().items()
                      if k != "map_label.bias"}, SONG, "edm")  # fmt: skip


@pytest.mark.parametrize(("config", "layout"), [(ADM, "adm"), (ADM, "edm"), (SONG, "edm")])
def test_states_with_and_without_destination_are_not_mixed_up(config, layout):
    student = dataclasses.replace(config, destination=True)
    plain = to_published(net_from_config(config).state_dict(), config, layout)
    with pytest.raises(ValueError, match="no destination embedding: it is a denoiser"):
        from_published(plain, student, layout)
    jumps = to_published(net_from_config(student).state_dict(), student, layout)
    with pytest.raises(ValueError, match="its network has destination=True"):
        from_published(jumps, config, layout)


def test_filters_are_checked_but_may_be_absent():
    published = to_published(net_from_config(SONG).state_dict(), SONG, "edm")
    filters = [name for name in published if name.endswith("resample_filter")]
    assert len(filters) == 4
    from_published({k: v for k, v in published.items() if k not in filters}, SONG, "edm")
    wrong = {**published, filters[0]: torch.ones(1, 1, 4, 4) / 16}
    with pytest.raises(ValueError, match="differs from the filter"):
        from_published(wrong, SONG, "edm")


@pytest.mark.parametrize(
    ("config", "layout", "message"),
    [
        (SONG, "adm", "does not hold networks of SongConfig"),
        (ADM, "keras", "unknown layout 'keras'; choose from"),
        (dataclasses.replace(ADM, resampling="conv"), "edm", "no convolutions that resample"),
        (dataclasses.replace(ADM, augment_dim=9), "diffusers", "no augmentation labels"),
        (dataclasses.replace(ADM, destination=True), "diffusers", "no destination embedding"),
        (SONG, "diffusers", "does not hold networks of SongConfig"),
        (dataclasses.replace(ADM, augment_dim=9), "adm", "no augmentation labels"),
    ],
)
def test_layouts_that_do_not_fit(config, layout, message):
    with pytest.raises(ValueError, match=message):
        from_published({}, config, layout)


def test_prefixes():
    assert without_prefix({"module.model.a": 1, "module.model.b": 2}) == {"a": 1, "b": 2}
    assert without_prefix({"model.a": 1, "b": 2}) == {"model.a": 1, "b": 2}
    assert without_prefix({}) == {}
