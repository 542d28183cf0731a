"""Choices of feature networks: JSON, what they refuse, the teacher's encoder, random features."""

import json

import pytest
import torch

from ctm_fast.denoiser import Denoiser
from ctm_fast.losses import Models, TeacherFeatures
from ctm_fast.models import BACKBONES, RandomFeatures, TeacherEncoder, Timm, build
from ctm_fast.models.feature_nets import RandomNet
from ctm_fast.models.weight_files import WEIGHTS_DIR
from ctm_fast.rng import stream

CHOICES = (
    TeacherEncoder(sigma=0.05, width=8),
    Timm("tf_efficientnet_lite0", "lite.pth", "0aa007d2"),
    RandomFeatures(seed=3, allow_random=True, resolution=16),
)


def teacher(name="digits", **overrides) -> Denoiser:
    return Denoiser(build(name, **overrides)).eval().requires_grad_(False)


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: type(c).__name__)
def test_json_round_trip(choice) -> None:
    data = json.loads(json.dumps(BACKBONES.to_json(choice)))
    assert BACKBONES.from_json(data) == choice
    assert {BACKBONES[name] for name in BACKBONES} == {type(c) for c in CHOICES}


def test_random_features_must_be_allowed() -> None:
    for options in ({}, {"seed": 1}, {"allow_random": False}):
        with pytest.raises(ValueError, match="need allow_random=True"):
            RandomFeatures(**options)


@pytest.mark.parametrize("channels, size", [(3, 32), (1, 8), (3, 40)])
def test_random_features(channels, size) -> None:
    parts = RandomFeatures(seed=1, allow_random=True).parts(None, (0,))
    assert parts.adapter is None and parts.maps == ((16, 16), (32, 8), (64, 4))
    x = torch.randn(2, channels, size, size, generator=stream(0)).requires_grad_()
    found = parts.network(x)
    assert [tuple(m.shape[1:]) for m in found] == [(c, s, s) for c, s in parts.maps]
    assert all(0.1 < m.std() < 10 for m in found)
    found[-1].sum().backward()
    assert (x.grad != 0).any() and list(parts.network.parameters()) == []
    again, other = RandomNet(1, 32)(x), RandomNet(2, 32)(x)
    assert torch.equal(again[-1], found[-1]) and not torch.equal(other[-1], found[-1])
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        parts.network(torch.zeros(1, 2, 8, 8))


def test_maps_of_the_teacher_are_those_of_the_teacher_feature_distance() -> None:
    model, choice = teacher(), TeacherEncoder(sigma=0.2)
    assert choice.maps(model) == ((32, 8), (64, 4), (64, 2))
    assert choice.parts(choice.maps(model), (0,))[:2] == (None, None)
    x = torch.randn(3, 1, 8, 8, generator=stream(0)).requires_grad_()
    labels = torch.tensor([1, 2, 3])
    found = choice.features(model, labels)(x)
    expected = TeacherFeatures(sigma=0.2).features(x, labels, Models(model, teacher=model))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert [tuple(m.shape[1:]) for m in found] == [(c, s, s) for c, s in choice.maps(model)]
    found[-1].sum().backward()
    assert (x.grad != 0).any()


def test_maps_of_an_unconditional_teacher_in_another_dtype() -> None:
    model = teacher("photo-patches", img_resolution=16, model_channels=16).double()
    assert TeacherEncoder().maps(model) == ((16, 16), (32, 8), (48, 4))


def test_absent_weights_say_what_to_fetch(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv(WEIGHTS_DIR, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for model, file in (
        ("deit_base_distilled_patch16_224", "dl.fbaipublicfiles.com/deit/deit_base_distilled_"),
        ("tf_efficientnet_lite0", "download/v0.1-weights/tf_efficientnet_lite0-0aa007d2.pth"),
    ):
        with pytest.raises(ValueError) as caught:
            Timm(model).parts(None, (0,))
        for part in (model, file, WEIGHTS_DIR, "huggingface.co/timm/", "Nothing is downloaded"):
            assert part in str(caught.value)
    with pytest.raises(ValueError, match="another file"):
        (tmp_path / "lite.pth").write_bytes(b"not the weights")
        Timm("tf_efficientnet_lite0", str(tmp_path / "lite.pth"), "0aa007d2").parts(None, (0,))


def test_bad_choices() -> None:
    with pytest.raises(ValueError, match=r"unknown timm model 'resnet18'; choose from \['deit_"):
        Timm("resnet18")
    with pytest.raises(ValueError, match="hexadecimal"):
        Timm(sha256="xyz")
    with pytest.raises(ValueError, match="sigma must be positive, got 0"):
        TeacherEncoder(sigma=0)
    with pytest.raises(ValueError, match="width must be at least 1"):
        TeacherEncoder(width=0)
    with pytest.raises(ValueError, match="multiple of 8, got 12"):
        RandomFeatures(allow_random=True, resolution=12)
    with pytest.raises(ValueError, match="needs channels_of_teacher"):
        TeacherEncoder().parts(None, (0,))
