"""Distances: values by hand, zero at equality, gradients, features of the teacher."""

import math

import pytest
import torch

from ctm_fast import models as networks
from ctm_fast.denoiser import Denoiser
from ctm_fast.losses import DISTANCES, L1, L2, Models, Norm, PseudoHuber, TeacherFeatures
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
    torch.testing.assert_close(between(Norm(), A, B), norm.sqrt())
    torch.testing.assert_close(between(PseudoHuber(0.03), A, B), (norm + c * c).sqrt() - c)


@pytest.mark.parametrize("name", ["l1", "l2", "norm", "pseudo_huber", "teacher_features"])
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


@pytest.mark.parametrize("distance", [PseudoHuber(), Norm()])
def test_gradient_at_equality_is_finite(distance) -> None:
    x = A.clone().requires_grad_()
    between(distance, x, A).sum().backward()
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
