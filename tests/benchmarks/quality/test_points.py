"""The network for points: its interface, and what a student takes over."""

import torch

from benchmarks.quality.points import PointsConfig, PointsNet, points_student
from ctm_fast.denoiser import Denoiser
from ctm_fast.precond import EDM, Preconditioning

X = torch.randn(5, 2, 1, 1, generator=torch.Generator().manual_seed(1))
SIGMA = torch.tensor([0.02, 0.5, 1.0, 5.0, 19.0])


def teacher() -> Denoiser:
    net = PointsNet(seed=1)
    with torch.no_grad():
        net.last_layer.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    return Denoiser(net, Preconditioning(EDM(0.75)), sigma_min=0.01, sigma_max=20.0)


def test_seed_makes_the_weights() -> None:
    one, same, other = PointsNet(seed=1), PointsNet(seed=1), PointsNet(seed=2)
    assert torch.equal(one.first.weight, same.first.weight)
    assert not torch.equal(one.first.weight, other.first.weight)
    assert one(X, SIGMA.log() / 4).shape == X.shape


def test_students_denoise_as_their_teacher_at_first() -> None:
    model = teacher()
    expected = model(X, SIGMA)
    assert expected.abs().max() > 0.1
    for kind in ("denoiser", "consistency", "trajectory"):
        student = points_student(model, kind, seed=3)
        assert student.kind == kind
        torch.testing.assert_close(student(X, SIGMA), expected)
    own = {id(p) for p in model.parameters()}
    assert not own & {id(p) for p in student.parameters()}


def test_destination_matters_once_it_has_weights() -> None:
    student = points_student(teacher(), "trajectory")
    assert student.net.config == PointsConfig(destination=True)
    before = student.net(X, SIGMA, SIGMA / 2)
    with torch.no_grad():
        student.net.level_to.weight.add_(0.1)
    assert not torch.equal(student.net(X, SIGMA, SIGMA / 2), before)
