"""What a student begins with: rules per objective."""

import pytest
import torch

from ctm_fast import data
from ctm_fast.checkpoints import load
from ctm_fast.cli.students import inner_of, kind_of, new_denoiser, student_for
from ctm_fast.losses import OBJECTIVES
from ctm_fast.noise_embeddings import FlowTime
from ctm_fast.precond import CM, EDM, LinearFlow, Preconditioning

SMALL = {"model_channels": 32, "channel_mult": (1, 2), "num_blocks": 1}
DIGITS = data.open("digits")
KINDS = {
    **dict.fromkeys(["cm", "ict", "ect", "sct", "tcm", "scm"], "consistency"),
    **dict.fromkeys(["ctm", "ctm_gan", "meanflow", "ayf"], "trajectory"),
    **dict.fromkeys(["dsm", "pd"], "denoiser"),
}


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_random_weights(name) -> None:
    objective = OBJECTIVES[name]()
    assert kind_of(objective) == KINDS[name]
    if "teacher" in objective.needs:
        with pytest.raises(ValueError, match=f"objective:{name} needs --teacher"):
            student_for(objective, DIGITS, None, options=SMALL)
        return
    model = student_for(objective, DIGITS, None, options=SMALL, sigma_range=(0.01, 20.0))
    assert (model.kind, model.sigma_min, model.sigma_max) == (KINDS[name], 0.01, 20.0)
    assert model.sigma_data == DIGITS.sigma_data
    assert model.net.config.model_channels == 32
    expected = {"ict": CM(DIGITS.sigma_data, 0.01), "meanflow": LinearFlow(DIGITS.sigma_data)}
    assert model.precond.inner == expected.get(name, EDM(DIGITS.sigma_data))
    if name == "meanflow":
        assert model.precond.noise_embedding == FlowTime()


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES.names()) - {"dsm"}))
def test_weights_of_a_teacher(name, teacher_file) -> None:
    teacher = load(teacher_file)
    objective = OBJECTIVES[name]()
    model = student_for(objective, DIGITS, teacher, options={"dropout": 0.25})
    assert model.kind == KINDS[name]
    assert (model.sigma_min, model.sigma_max) == (teacher.sigma_min, teacher.sigma_max)
    own, old = model.net.state_dict(), teacher.net.state_dict()
    assert all(torch.equal(own[key], old[key]) for key in old if key in own)
    assert len(set(old) - set(own)) == 0
    if name in ("cm", "ict"):
        assert model.precond == Preconditioning(CM(teacher.sigma_data, teacher.sigma_min))
    else:
        assert model.precond == teacher.precond
    if model.kind != "trajectory":
        assert model.net.config.dropout == 0.25


def test_a_range_within_the_teachers(teacher_file) -> None:
    teacher = load(teacher_file)
    model = student_for(OBJECTIVES["cm"](), DIGITS, teacher, sigma_range=(0.1, 10.0))
    assert (model.sigma_min, model.sigma_max) == (0.1, 10.0)
    assert model.precond.inner == CM(teacher.sigma_data, 0.1)
    with pytest.raises(ValueError, match="the teacher knows noise levels"):
        student_for(OBJECTIVES["ect"](), DIGITS, teacher, sigma_range=(0.1, 100.0))


def test_a_diffusion_model_takes_no_teacher(teacher_file) -> None:
    with pytest.raises(ValueError, match="leave --teacher out"):
        student_for(OBJECTIVES["dsm"](), DIGITS, load(teacher_file))


def test_inner_scalings() -> None:
    assert inner_of(OBJECTIVES["cm"](), 0.7, 0.01) == CM(0.7, 0.01)
    assert inner_of(OBJECTIVES["ect"](), 0.7, 0.01) == EDM(0.7)


def test_new_denoiser_takes_its_kind_from_what_it_is_asked_for() -> None:
    assert new_denoiser("digits", DIGITS, 0, kind="consistency", **SMALL).kind == "consistency"
    assert new_denoiser("digits", DIGITS, 0, kind="trajectory", **SMALL).net.has_destination
    assert new_denoiser("digits", DIGITS, 0, destination=True, **SMALL).kind == "trajectory"


def test_published_scalings_and_no_classes() -> None:
    options = {**SMALL, "label_dim": 0}
    model = student_for(OBJECTIVES["dsm"](), DIGITS, None, options=options, sigma_data=0.5)
    assert (model.sigma_data, model.label_dim) == (0.5, 0)


def test_the_model_of_an_earlier_run_goes_on(teacher_file, student_file) -> None:
    objective, teacher, begun = OBJECTIVES["ctm"](), load(teacher_file), load(student_file)
    assert student_for(objective, DIGITS, teacher, student=begun) is begun
    known = (begun.sigma_min, begun.sigma_max)
    assert student_for(objective, DIGITS, teacher, student=begun, sigma_range=known) is begun
    with pytest.raises(ValueError, match=r"--student was trained for levels in"):
        student_for(objective, DIGITS, teacher, student=begun, sigma_range=(0.01, 3.0))
    with pytest.raises(ValueError, match="the teacher has 10 classes, not label_dim=0"):
        student_for(objective, DIGITS, teacher, student=begun, options={"label_dim": 0})
    with pytest.raises(ValueError, match="objective:ctm needs --teacher"):
        student_for(objective, DIGITS, None, student=begun)
