"""Files of sony/ctm and ctm-cifar10."""

import dataclasses

import pytest
import torch

from ctm_fast.checkpoints.building import built
from ctm_fast.checkpoints.ctm import read, read_cifar10
from ctm_fast.models.key_layouts import to_published
from ctm_fast.precond import CM, EDM, Euler, Preconditioning
from tests.fixtures import FIXTURES, assert_within, fixture_dir, load_fixture, tolerance
from tests.models.tiny import ADM, SONG, randomised

UNSEEN = {"img_resolution": 8, "channels_per_head": 32}
CTM = dataclasses.replace(ADM, destination=True)
CIFAR = dataclasses.replace(SONG, destination=True, augment_dim=0)
FIXTURE = "ctm_imagenet_unet"


def state_of(config, layout, prefix=""):
    net = randomised(config).float()
    return to_published(net.state_dict(), config, layout, prefix), net


@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
@pytest.mark.parametrize("label_dim", [0, 3])
@pytest.mark.parametrize("cifar", [False, True])
def test_models(tmp_path, prefix, label_dim, cifar):
    config = dataclasses.replace(CIFAR if cifar else CTM, label_dim=label_dim)
    state, net = state_of(config, "edm" if cifar else "adm", prefix)
    path = tmp_path / "ema_0.999_049000.pt"
    torch.save(state, path)
    overrides = {} if cifar else dict(UNSEEN)
    found = (read_cifar10 if cifar else read)(path, overrides)
    own = "quarter_log" if cifar else "log_250"
    assert found.format == ("ctm-cifar10" if cifar else "ctm")
    assert found.precond == Preconditioning(EDM(0.5), Euler(), own)
    assert (found.kind, found.sigma_min, found.sigma_max) == ("trajectory", 0.002, 80)
    assert found.provenance == {"file": path.name, "ema_decay": 0.999, "step": 49000}
    assert not overrides
    denoiser = built(found)
    for name, value in net.state_dict().items():
        assert torch.equal(denoiser.net.state_dict()[name], value), name


def test_overrides():
    state, _ = state_of(CTM, "adm")
    found = read(state, {**UNSEEN, "sigma_data": 0.3, "sigma_min": 0.01, "precond": "cm"})
    assert (found.precond.inner, found.sigma_min) == (CM(0.3, 0.01), 0.01)
    with pytest.raises(ValueError, match="kind='consistency' was asked for"):
        read(state, {**UNSEEN, "kind": "consistency"})


def test_attention_of_the_cifar10_repository():
    state, _ = state_of(CTM, "adm")
    assert read(state, dict(UNSEEN)).layout == "adm"
    assert read_cifar10(state, dict(UNSEEN)).layout == "adm-legacy"
    assert read_cifar10(state, {**UNSEEN, "attention_order": "new"}).layout == "adm"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ct_imagenet64.pt", "a CT checkpoint without .*format='openai' and kind='consistency'"),
        ("edm_imagenet64_ema.pt", "an? EDM checkpoint without .*kind='denoiser'"),
        ("x.pt", "a checkpoint without .*kind='consistency' or kind='denoiser'"),
    ],
)
def test_networks_without_destination(tmp_path, name, message):
    torch.save(state_of(ADM, "adm")[0], tmp_path / name)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name, dict(UNSEEN))


@pytest.mark.skipif(fixture_dir(FIXTURE) is None, reason="fixture folder not present")
def test_recorded_outputs():
    recorded, meta = load_fixture(FIXTURE)
    path = FIXTURES / FIXTURE / "weights.safetensors"
    denoiser = built(read(path, {"img_resolution": 16, "channels_per_head": 32}))
    with torch.no_grad():
        out = denoiser.jump(*(recorded[name] for name in ("x_t", "t", "s", "y")))
    assert_within(out, recorded["G"], tolerance(meta, "G"))
