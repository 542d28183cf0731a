"""Students made from teachers."""

import dataclasses

import pytest
import torch
from torch import nn

from ctm_fast.denoiser import Denoiser
from ctm_fast.models import consistency_from, net_from_config, student_from
from ctm_fast.precond import CM, EDM, Preconditioning
from tests.analytic import column
from tests.models.tiny import ADM, SONG, inputs, randomised

FOURIER = dataclasses.replace(SONG, embedding="fourier")
each = pytest.mark.parametrize("config", [SONG, FOURIER, ADM], ids=["song", "fourier", "adm"])


@each
def test_same_names_are_copied_and_the_rest_is_new(config):
    teacher = Denoiser(randomised(config), Preconditioning(EDM(0.7)), sigma_min=0.01, sigma_max=9)
    student = student_from(teacher, seed=5)
    fresh = net_from_config(student.net.config, seed=5).double().state_dict()
    own, old = student.net.state_dict(), teacher.net.state_dict()
    new = {name for name in own if "_to." in name}
    assert set(own) - new == set(old) - {"map_augment.weight"}
    for name, value in own.items():
        assert torch.equal(value, fresh[name] if name in new else old[name]), name
        if name in new and name.endswith("weight"):
            assert value.any()


@each
def test_settings_are_the_teachers(config):
    teacher = Denoiser(randomised(config), Preconditioning(EDM(0.7)), sigma_min=0.01, sigma_max=9)
    student = student_from(teacher)
    assert student.kind == "trajectory" and student.precond == teacher.precond
    assert (student.sigma_min, student.sigma_max) == (0.01, 9)
    assert student.training and student.net.training
    assert all(p.requires_grad and p.dtype == torch.float64 for p in student.parameters())
    assert student.net.config == dataclasses.replace(config, destination=True, augment_dim=0)


@each
def test_an_exact_student_begins_as_the_teacher_and_learns_destinations(config):
    teacher = Denoiser(randomised(config))
    student, exact = student_from(teacher).eval(), student_from(teacher, exact=True).eval()
    given = inputs(config)
    x, sigma, labels = given["x"], given["c_noise"].exp(), given["classes"]
    expected = teacher(x, sigma, labels)
    assert not torch.allclose(student(x, sigma, labels), expected, rtol=1e-4)
    torch.testing.assert_close(exact(x, sigma, labels), expected, rtol=1e-10, atol=1e-10)
    # A jump is one Euler step of the teacher's ODE.
    low = column(sigma / 3, x)
    step = expected + low / column(sigma, x) * (x - expected)
    jumped = exact.jump(x, sigma, sigma / 3, labels)
    torch.testing.assert_close(jumped, step, rtol=1e-10, atol=1e-10)
    jumped.square().sum().backward()
    gradients = [p.grad for name, p in exact.net.named_parameters() if "affine_to" in name]
    assert gradients and all(g is not None and g.any() for g in gradients)


def test_teacher_is_not_touched():
    teacher = Denoiser(randomised(SONG))
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    student = student_from(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())


def test_students_differ_by_seed():
    teacher = Denoiser(randomised(SONG))
    a, b = (student_from(teacher, seed=s).net.map_layer0_to.weight for s in (0, 1))
    assert not torch.equal(a, b)


def test_foreign_networks_are_refused():
    with pytest.raises(ValueError, match="got Linear"):
        student_from(Denoiser(nn.Linear(2, 2)))


@each
@pytest.mark.parametrize("kind", ["consistency", "denoiser"])
def test_a_consistency_student_begins_as_its_teacher(config, kind):
    teacher = Denoiser(randomised(config), Preconditioning(EDM(0.7)), sigma_min=0.01, sigma_max=9)
    student = consistency_from(teacher, kind=kind)
    assert student.kind == kind and student.precond == teacher.precond
    assert (student.sigma_min, student.sigma_max) == (0.01, 9)
    assert student.training and all(p.requires_grad for p in student.parameters())
    given = inputs(config)
    x, sigma, labels = given["x"], given["c_noise"].exp(), given["classes"]
    found = student.eval()(x, sigma, labels)
    assert torch.allclose(found, teacher.eval()(x, sigma, labels), rtol=1e-10)
    with torch.no_grad():
        student.last_layer.weight.add_(1)
    assert not torch.equal(student.last_layer.weight, teacher.last_layer.weight)


def test_a_consistency_student_may_have_other_scalings_and_dropout():
    teacher = Denoiser(randomised(SONG), Preconditioning(EDM(0.7)), sigma_min=0.01, sigma_max=9)
    student = consistency_from(teacher, inner=CM(0.7, 0.01), dropout=0.3)
    assert student.precond == Preconditioning(CM(0.7, 0.01))
    assert student.net.config == dataclasses.replace(SONG, augment_dim=0, dropout=0.3)
    x = inputs(SONG)["x"]
    assert torch.allclose(student.eval()(x, 0.01), x, rtol=1e-10)
    again = consistency_from(student)
    assert again.kind == "consistency"


def test_a_trajectory_model_is_no_start_for_a_consistency_student():
    with pytest.raises(ValueError, match="trajectory"):
        consistency_from(student_from(Denoiser(randomised(SONG))))
