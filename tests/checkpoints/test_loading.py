"""One door for every format: recognised by content, exact, complete, and frugal."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import ctm_fast
from ctm_fast.checkpoints import FORMATS, DamagedCheckpoint, header, load, opened, save

from .samples import SONG, edm_pickle, make, network, published

KINDS = {
    "native": "trajectory",
    "ctm": "trajectory",
    "ctm-cifar10": "trajectory",
    "edm": "denoiser",
    "state-dict": "denoiser",
    "openai": "consistency",
    "diffusers": "consistency",
}
# A network of some hundred megabytes is loaded in a process of its own: memory is never given back.
MEASURE = """
import os, sys, torch
def memory(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
import ctm_fast
options = dict(kind="denoiser") if len(sys.argv) > 2 else {}
import ctm_fast.checkpoints.openai, ctm_fast.checkpoints.state_dict
from ctm_fast import models
ctm_fast.Denoiser(models.build("digits"))
before = memory("VmRSS")
ctm_fast.load(sys.argv[1], **options)
print((memory("VmHWM") - before) / os.path.getsize(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return {name: make(name, tmp_path_factory.mktemp(name)) for name in FORMATS}


@pytest.mark.parametrize("asked", ["auto", "by name"])
@pytest.mark.parametrize("name", list(FORMATS))
def test_every_format(samples, name, asked):
    sample = samples[name]
    found = opened(sample.path, "auto" if asked == "auto" else name, **sample.overrides)
    model = found.denoiser
    assert found.format == name
    assert model.kind == KINDS[name]
    assert not model.training
    own = model.net.state_dict()
    for key, value in sample.net.state_dict().items():
        assert torch.equal(own[key], value), key
        assert own[key].stride() == value.stride(), key
    x = torch.randn(2, model.img_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    level = torch.tensor([0.1, 0.2])
    to = level - 0.1 if model.net.has_destination else None
    labels = torch.tensor([0, 2]) if model.label_dim else None
    assert torch.equal(model.net(x, level, to, labels), sample.net(x, level, to, labels))
    assert torch.isfinite(model(x, 2.0, labels)).all()


@pytest.mark.parametrize("name", ["ctm", "ctm-cifar10", "openai", "diffusers", "state-dict"])
def test_mappings_and_their_owner(samples, name):
    sample = samples[name]
    layout = {"ctm": "adm", "openai": "adm", "diffusers": "diffusers"}.get(name, "edm")
    state = published(sample.net, layout)
    overrides = {"img_resolution": 8, **sample.overrides, "kind": KINDS[name]}
    found = opened(state, **overrides)
    assert found.format == name
    assert set(state) == set(published(sample.net, layout)), "the caller's mapping was emptied"
    own = found.denoiser.net.state_dict()
    for key, value in sample.net.state_dict().items():
        assert torch.equal(own[key], value), key
    pointers = {value.data_ptr() for value in state.values()}
    assert not pointers & {value.data_ptr() for value in own.values()}, "memory is shared"


def test_live_modules(samples):
    class Foreign(nn.Module):
        def __init__(self):
            super().__init__()
            self.held = published(samples["openai"].net, "adm")

        def state_dict(self, *args, **kwargs):
            return dict(self.held)

    model = load(Foreign(), kind="denoiser", img_resolution=8)
    assert torch.equal(model.net.input_conv.weight, samples["openai"].net.input_conv.weight)
    with pytest.raises(ValueError, match="is a Denoiser already"):
        load(model)


def test_notes_are_logged_kept_and_saved(samples, tmp_path, caplog):
    sample = samples["openai"]
    with caplog.at_level(logging.INFO, logger="ctm_fast"):
        model = load(sample.path, **sample.overrides)
    assert model.notes
    assert [record.getMessage() for record in caplog.records] == list(model.notes)
    path = save(model, tmp_path / "a.safetensors", step=3)
    assert header(path)["provenance"] == {"notes": list(model.notes), "step": 3}
    assert load(path).notes == model.notes
    assert ctm_fast.load is load


def test_what_the_file_says_about_itself(samples):
    found = opened(samples["ctm"].path, img_resolution=8)
    assert found.provenance["ema_decay"] == 0.999
    assert found.provenance["step"] == 49000
    assert opened(samples["native"].path).provenance == {"step": 3}


def test_overrides(samples):
    assert load(samples["ctm"].path, img_resolution=8, sigma_max=40.0).sigma_max == 40.0
    with pytest.raises(ValueError, match=r"unknown overrides \['sigma_mx'\]; allowed.*sigma_max"):
        load(samples["ctm"].path, sigma_mx=40.0)
    with pytest.raises(ValueError, match=r"'openai' has no use for the overrides \['encoder'\]"):
        load(samples["openai"].path, **samples["openai"].overrides, encoder="skip")


def test_unknown_formats(samples):
    with pytest.raises(ValueError, match=r"unknown format 'onnx'.*diffusers.*native"):
        load(samples["ctm"].path, format="onnx")
    with pytest.raises(ValueError, match="pickle or a live network"):
        load({"a": torch.zeros(1)}, format="edm")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"device": "abacus"}, "device is 'abacus'"),
        ({"device": "meta"}, "holds no weights"),
        ({"device": object()}, "device is <object"),
        ({"dtype": "float16"}, "dtype must be"),
        ({"dtype": torch.int8}, "dtype must be"),
    ],
)
def test_targets_that_are_none(samples, options, text):
    with pytest.raises(ValueError, match=text):
        load(samples["native"].path, **options)


def test_every_name_has_to_be_used(samples):
    state = published(samples["ctm"].net, "adm")
    with pytest.raises(ValueError, match=r"left over.*surplus"):
        load({**state, "surplus": torch.zeros(1)}, img_resolution=8)
    del state["middle_block.0.in_layers.0.weight"]
    with pytest.raises(ValueError, match=r"missing.*middle_block\.0\.in_layers\.0\.weight"):
        load(state, img_resolution=8)


def test_a_model_of_another_kind_says_what_it_is(samples):
    with pytest.raises(ValueError, match=r"without destination embedding.*kind='consistency'"):
        load(samples["openai"].path, img_resolution=8, kind="trajectory")
    with pytest.raises(ValueError, match=r"without destination embedding.*kind='consistency'"):
        load(samples["openai"].path, format="ctm", img_resolution=8)


def test_weights_that_are_not_finite(samples):
    state = published(samples["ctm"].net, "adm")
    state["out.2.bias"] = torch.full_like(state["out.2.bias"], float("nan"))
    with pytest.raises(DamagedCheckpoint, match=r"not finite"):
        load(state, img_resolution=8)


def test_augmentation_layers_of_edm(tmp_path):
    net = network(SONG, augment_dim=9)
    names = ("img_resolution", "model_channels", "channel_mult", "num_blocks", "attn_resolutions")
    kwargs = {name: getattr(SONG, name) for name in (*names, "dropout")}
    kwargs |= {"in_channels": 1, "out_channels": 1, "augment_dim": 9}
    (tmp_path / "a.pkl").write_bytes(edm_pickle(net, kwargs))
    assert load(tmp_path / "a.pkl").net.config == net.config


def peak(path: Path, *words: str) -> float:
    """Growth of memory while a file is loaded, in sizes of the file."""
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), *words],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures on Linux only")
def test_loading_holds_the_weights_once(tmp_path):
    from safetensors.torch import save_file

    net = ctm_fast.build("adm-imagenet64", model_channels=96)  # 300 MB
    state = published(net, "adm")
    torch.save(state, tmp_path / "a.pt")
    save_file(state, tmp_path / "b.safetensors")
    save(ctm_fast.Denoiser(net), tmp_path / "c.safetensors")
    song = ctm_fast.build("ddpmpp-cifar10", dropout=0.1, channel_mult=(2, 2, 2, 2))
    kwargs = {"img_resolution": 32, "in_channels": 3, "out_channels": 3, "channel_mult": [2] * 4}
    (tmp_path / "d.pkl").write_bytes(edm_pickle(song, kwargs))
    del state, net, song
    told = {"a.pt": ["x"], "b.safetensors": ["x"], "c.safetensors": [], "d.pkl": []}
    for name, words in told.items():
        growth = peak(tmp_path / name, *words)
        assert 0.9 < growth < 1.3, f"{name}: {growth:.2f} times the size of the file"
