"""Files of openai's repositories: roles, published names, what is refused."""

import dataclasses

import pytest
import torch

from ctm_fast.checkpoints.loading import built
from ctm_fast.checkpoints.openai import read, role_of_name
from ctm_fast.models.key_layouts import to_published
from ctm_fast.noise_embeddings import DiscreteTime
from ctm_fast.precond import CM, EDM, Epsilon, Euler, Preconditioning
from tests.models.tiny import ADM, randomised

UNSEEN = {"img_resolution": 8, "channels_per_head": 32}


def state_of(config=ADM, layout="adm"):
    net = randomised(config).float()
    return to_published(net.state_dict(), config, layout), net


def with_variance(state):
    return state | {
        "out.2.weight": torch.cat([state["out.2.weight"]] * 2),
        "out.2.bias": torch.cat([state["out.2.bias"]] * 2),
    }


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("edm_imagenet64_ema.pt", "edm"),
        ("edm_bedroom256_ema.pt", "edm"),
        ("cd_imagenet64_l2.pt", "cd"),
        ("cd_cat256_lpips.pt", "cd"),
        ("ct_imagenet64.pt", "ct"),
        ("ct_bedroom256.pt", "ct"),
        ("64x64_diffusion.pt", "guided-diffusion"),
        ("256x256_diffusion_uncond.pt", "guided-diffusion"),
        ("lsun_horse_nodropout.pt", "guided-diffusion"),
        ("ema_0.999_049000.pt", None),
        ("64_256_upsampler.pt", None),
        ("32x64_diffusion.pt", None),
    ],
)
def test_roles_of_published_names(name, role):
    assert role_of_name(name) == role


@pytest.mark.parametrize(
    ("name", "kind", "inner"),
    [
        ("edm_imagenet64_ema.pt", "denoiser", EDM(0.5)),
        ("cd_imagenet64_l2.pt", "consistency", CM(0.5)),
        ("ct_imagenet64.pt", "consistency", CM(0.5)),
    ],
)
def test_roles_from_file_names_are_said(tmp_path, name, kind, inner):
    torch.save(state_of()[0], tmp_path / name)
    found = read(tmp_path / name, dict(UNSEEN))
    assert (found.kind, found.precond) == (kind, Preconditioning(inner, Euler(), "log_250"))
    assert (found.sigma_min, found.sigma_max, found.config.dropout) == (0.002, 80, 0.1)
    assert any(f"since the file is called {name}" in note for note in found.notes)
    assert found.provenance == {"file": name, "role": name[:3].rstrip("_")}


def test_sizes_from_file_names(tmp_path):
    torch.save(state_of()[0], tmp_path / "cd_bedroom256_l2.pt")
    found = read(tmp_path / "cd_bedroom256_l2.pt", {})
    assert found.config.img_resolution == 256 and found.config.attn_resolutions == (128,)
    assert "img_resolution=256: since the file is called cd_bedroom256_l2.pt" in found.notes


def test_the_role_has_to_come_from_somewhere():
    state, _ = state_of()
    with pytest.raises(ValueError, match=r"pass kind='denoiser' .*kind='consistency'"):
        read(state, dict(UNSEEN))
    for kind, inner in (("denoiser", EDM(0.3)), ("consistency", CM(0.3))):
        overrides = {**UNSEEN, "kind": kind, "sigma_data": 0.3, "sigma_max": 50.0}
        found = read(state, overrides)
        assert (found.kind, found.precond.inner, found.sigma_max) == (kind, inner, 50.0)
        assert not overrides
    with pytest.raises(ValueError, match="unknown kind 'gan'"):
        read(state, {**UNSEEN, "kind": "gan"})


def test_what_the_user_says_counts_more_than_the_name(tmp_path):
    path = tmp_path / "cd_imagenet64_l2.pt"
    torch.save(state_of()[0], path)
    assert read(path, {**UNSEEN, "kind": "denoiser"}).precond.inner == EDM(0.5)
    found = read(path, {**UNSEEN, "precond": "linear"})
    assert (found.kind, found.precond.inner) == ("denoiser", Epsilon(0.5))


@pytest.mark.parametrize(("size", "schedule"), [(64, "cosine"), (8, "linear")])
def test_guided_diffusion(size, schedule):
    config = dataclasses.replace(ADM, img_resolution=size, attn_resolutions=(size // 2,))
    state, net = state_of(config, "adm-legacy")
    found = read(with_variance(state), {"img_resolution": size, "channels_per_head": 32})
    assert found.layout == "adm-legacy" and found.kind == "denoiser"
    assert found.precond == Preconditioning(Epsilon(0.5), Euler(), DiscreteTime(schedule))
    assert any(f"precond={schedule!r}: not stored" in note for note in found.notes)
    denoiser = built(found)
    for name, value in net.state_dict().items():
        assert torch.equal(denoiser.net.state_dict()[name], value), name
    with pytest.raises(ValueError, match="'consistency' was asked for, but it predicts a variance"):
        read(with_variance(state), {**UNSEEN, "kind": "consistency"})


def test_the_network_with_four_heads(tmp_path):
    config = dataclasses.replace(ADM, channels_per_head=0, num_heads=4)
    torch.save(with_variance(state_of(config)[0]), tmp_path / "128x128_diffusion.pt")
    found = read(tmp_path / "128x128_diffusion.pt", {})
    assert (found.config.num_heads, found.config.img_resolution) == (4, 128)
    found = read(tmp_path / "128x128_diffusion.pt", {"channels_per_head": 32})
    assert found.config.num_heads == 1 and found.config.channels_per_head == 32


def test_other_networks(tmp_path):
    jumps, _ = state_of(dataclasses.replace(ADM, destination=True))
    with pytest.raises(ValueError, match="trajectory model of sony/ctm; load it with format='ctm'"):
        read(jumps, dict(UNSEEN))
    edm, _ = state_of(dataclasses.replace(ADM, min_group=4), "edm")
    with pytest.raises(ValueError, match="names are those of the layout 'edm'"):
        read(edm, {"channels_per_head": 32})
    path = tmp_path / "ct_imagenet64.pt"
    torch.save(state_of()[0], path)
    with pytest.raises(ValueError, match="a CT checkpoint without destination embedding cannot be"):
        read(path, {**UNSEEN, "kind": "trajectory"})
