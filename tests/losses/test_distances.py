"""Distances: values by hand, zero at equality, gradients, features of the teacher."""

import math
import sys
import types

import pytest
import torch
from torch import nn
from torch.nn import functional

from ctm_fast import models as networks
from ctm_fast.denoiser import Denoiser
from ctm_fast.losses import DISTANCES, L1, L2, LPIPS, Models, PseudoHuber, TeacherFeatures
from ctm_fast.losses import distances as module
from ctm_fast.rng import stream

from .tools import constant

A, B = torch.randn(2, 5, 1, 8, 8, generator=stream(0))
NONE = Models(constant(0.0, True))


def teacher() -> Denoiser:
    net = networks.build("digits", seed=1, model_channels=32, num_blocks=1)
    return Denoiser(net).eval().requires_grad_(False)


def between(distance, a, b, models=NONE, labels=None):
    return distance(a, distance.targets(b, labels, models), labels, models)


def test_pixel_distances_by_hand() -> None:
    torch.testing.assert_close(between(L2(), A, B), ((A - B) ** 2).flatten(1).mean(1))
    torch.testing.assert_close(between(L1(), A, B), (A - B).abs().flatten(1).mean(1))
    c = 0.03 * math.sqrt(64)
    norm = ((A - B) ** 2).flatten(1).sum(1)
    torch.testing.assert_close(between(PseudoHuber(0.03), A, B), (norm + c * c).sqrt() - c)


@pytest.mark.parametrize("name", ["l1", "l2", "pseudo_huber", "teacher_features"])
def test_zero_at_equality_symmetric_and_differentiable(name: str) -> None:
    distance, models = DISTANCES[name](), Models(constant(0.0, True), None, teacher())
    assert between(distance, A, A, models).abs().max() == 0
    torch.testing.assert_close(between(distance, A, B, models), between(distance, B, A, models))
    x = A.clone().requires_grad_()
    between(distance, x, B, models).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.flatten(1).norm(dim=1).min() > 0


def test_pseudo_huber_keeps_precision_for_small_differences() -> None:
    # sqrt(d^2 + c^2) - c cancels: at this size float32 has no digit of it left.
    a = torch.zeros(1, 1, 8, 8)
    b = torch.full_like(a, 1e-6)
    distance = PseudoHuber(0.03)
    exact = between(distance, a.double(), b.double())
    torch.testing.assert_close(between(distance, a, b).double(), exact, rtol=1e-5, atol=0)
    assert exact.item() == pytest.approx(64e-12 / (2 * 0.24), rel=1e-6)


def test_gradient_at_equality_is_finite() -> None:
    x = A.clone().requires_grad_()
    between(PseudoHuber(), x, A).sum().backward()
    assert x.grad.abs().max() == 0


def test_teacher_features_by_hand() -> None:
    distance, model = TeacherFeatures(sigma=0.2, pixel_weight=0.0), teacher()
    models = Models(constant(0.0, True), None, model)
    c_in, c_noise = (0.2**2 + 0.25) ** -0.5, torch.full((5,), math.log(0.2) / 4)
    expected = torch.zeros(5)
    for a, b in zip(model.net.features(c_in * A, c_noise), model.net.features(c_in * B, c_noise)):
        a = a / a.norm(dim=1, keepdim=True)
        b = b / b.norm(dim=1, keepdim=True)
        expected += ((a - b) ** 2).sum(1).mean((1, 2))
    torch.testing.assert_close(between(distance, A, B, models), expected, rtol=1e-4, atol=1e-5)


def test_teacher_features_in_the_teachers_dtype() -> None:
    half = teacher()
    half.net.to(torch.bfloat16)
    models = Models(constant(0.0, True), None, half)
    full = Models(constant(0.0, True), None, teacher())
    distance = TeacherFeatures()
    ours, exact = between(distance, A, B, models), between(distance, A, B, full)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, exact, rtol=0.05, atol=0.05)


def test_teacher_features_need_a_teacher() -> None:
    with pytest.raises(ValueError, match="TeacherFeatures needs a teacher"):
        between(TeacherFeatures(), A, B)


def test_teacher_features_need_a_network_that_has_them() -> None:
    with pytest.raises(ValueError, match="a ConstantNet has no encoder features"):
        between(TeacherFeatures(), A, B, Models(constant(0.0, True), None, constant(0.0, False)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PseudoHuber(0.0), "factor must be positive, got 0.0"),
        (lambda: TeacherFeatures(sigma=0.0), "sigma=0.0"),
        (lambda: TeacherFeatures(pixel_weight=-1.0), "pixel_weight=-1.0"),
    ],
)
def test_bad_options_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


class FakeVGG(nn.Module):
    """Stands for the package's VGG16: slices whose layers keep their position as name."""

    def __init__(self) -> None:
        super().__init__()
        self.slice1 = nn.Sequential()
        self.slice1.add_module("0", nn.Conv2d(3, 4, 3))
        self.slice2 = nn.Sequential()
        self.slice2.add_module("4", nn.MaxPool2d(2, 2))
        self.slice2.add_module("5", nn.Conv2d(4, 4, 3))
        self.N_slices = 2


class FakeLPIPS(nn.Module):
    """Stands for `lpips.LPIPS`, with the constructor and call of version 0.1.4."""

    def __init__(self, net: str, pnet_rand: bool, verbose: bool) -> None:
        super().__init__()
        assert (net, pnet_rand, verbose) == ("vgg", True, False)
        self.net = FakeVGG()

    def forward(self, a, b):
        assert a.shape[1:] == b.shape[1:] == (3, 224, 224)
        features = [self.net.slice2(self.net.slice1(x)) for x in (a, b)]
        return ((features[0] - features[1]) ** 2).mean((1, 2, 3), keepdim=True)


@pytest.fixture
def lpips_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=FakeLPIPS))
    monkeypatch.setattr(module, "_LPIPS_NETWORKS", {})


def test_lpips_loads_local_weights_and_resizes(tmp_path, lpips_package) -> None:
    state = {f"features.{k}": v for k, v in vgg_state().items()}
    torch.save(state, tmp_path / "vgg.pt")
    distance = LPIPS(str(tmp_path / "vgg.pt"))
    values = between(distance, A, B)
    assert values.shape == (5,)
    assert values.min() > 0
    assert between(distance, A, A).max() == 0
    x = A.clone().requires_grad_()
    between(distance, x, B).sum().backward()
    assert x.grad.abs().sum() > 0


def test_lpips_pools_by_averages(tmp_path, lpips_package) -> None:
    weights = vgg_state()
    torch.save({f"features.{k}": v for k, v in weights.items()}, tmp_path / "vgg.pt")
    values = between(LPIPS(str(tmp_path / "vgg.pt")), A, B)

    def features(x: torch.Tensor) -> torch.Tensor:
        x = functional.interpolate(x.expand(-1, 3, -1, -1), (224, 224), mode="bilinear")
        x = functional.conv2d(x, weights["0.weight"], weights["0.bias"])
        return functional.conv2d(
            functional.avg_pool2d(x, 2), weights["5.weight"], weights["5.bias"]
        )

    expected = ((features(A) - features(B)) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(values, expected)


def vgg_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    vgg = FakeVGG()
    parts = [vgg.slice1.state_dict(), vgg.slice2.state_dict()]
    return {k: v for part in parts for k, v in part.items()}


def test_lpips_refuses_to_guess_weights(tmp_path, lpips_package) -> None:
    with pytest.raises(ValueError, match="nothing is downloaded"):
        between(LPIPS(), A, B)
    torch.save({"features.0.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"not a VGG16 state dict: it lacks features.0.bias"):
        between(LPIPS(str(tmp_path / "other.pt")), A, B)


def test_lpips_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ValueError, match=r"ctm_fast\[gan\]"):
        between(LPIPS("vgg.pt"), A, B)
