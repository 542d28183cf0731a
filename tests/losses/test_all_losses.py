"""The contract of every objective."""

import json

import pytest
import torch

from ctm_fast import models as networks
from ctm_fast.denoiser import Denoiser
from ctm_fast.losses import OBJECTIVES, Batch, Models, Objective, evaluate
from ctm_fast.models import shared_dropout
from ctm_fast.rng import stream

from .tools import label_batch


def trio(objective: Objective) -> Models:
    small = {"model_channels": 32, "num_blocks": 1, "dropout": 0.2}
    teacher = Denoiser(networks.build("digits", seed=1, **small)).eval().requires_grad_(False)
    with torch.no_grad():  # some layers start near zero, where dropout would not show
        for parameter in teacher.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=stream(9))
    student, target = networks.student_from(teacher, 2), networks.student_from(teacher, 3)
    needs = objective.needs
    return Models(
        student.train().requires_grad_(True),
        target.train().requires_grad_(False) if "target" in needs else None,
        teacher if "teacher" in needs else None,
    )


def batch_for(objective: Objective, size: int = 6) -> Batch:
    images = torch.rand(size, 1, 8, 8, generator=stream(4)) * 2 - 1
    return Batch(images, label_batch(size), objective.draw(size, (1, 8, 8), stream(0, 0)))


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_contract(name: str) -> None:
    objective = OBJECTIVES[name]()
    assert isinstance(objective, Objective)
    assert objective.needs <= {"target", "teacher"}
    assert set(objective.balance) <= set(objective.terms[1:])
    models, batch = trio(objective), batch_for(objective)
    with shared_dropout("cpu", 7):
        losses = evaluate(objective, batch, models)
    assert tuple(losses) == objective.terms
    for loss in losses.values():
        assert loss.shape == (6,)
        assert loss.isfinite().all()
        assert (loss >= 0).all()
    sum(loss.mean() for loss in losses.values()).backward()
    for parameter in models.student.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    assert models.student.last_layer.weight.grad.abs().sum() > 0
    for other in (models.target, models.teacher):
        if other is not None:
            assert all(p.grad is None for p in other.parameters())
    # Draws hold nothing that would keep a graph alive, and one row per image.
    for value in batch.draw.values():
        if isinstance(value, torch.Tensor):
            assert not value.requires_grad
            assert len(value) == 6


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_same_seed_same_loss_with_dropout(name: str) -> None:
    objective = OBJECTIVES[name]()
    models = trio(objective)
    runs = []
    for seed in (7, 7, 8):
        with shared_dropout("cpu", seed):
            runs.append(evaluate(objective, batch_for(objective), models))
    for term in objective.terms:
        assert torch.equal(runs[0][term], runs[1][term])
        assert not torch.equal(runs[0][term], runs[2][term])


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_json_round_trip(name: str) -> None:
    objective = OBJECTIVES[name]()
    text = json.dumps(OBJECTIVES.to_json(objective))
    assert OBJECTIVES.from_json(json.loads(text)) == objective
    with pytest.raises(ValueError, match="unknown fields"):
        OBJECTIVES.from_json({"name": name, "nonsense": 1})
