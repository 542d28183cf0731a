"""The contract of every objective."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from ctm_fast import models as networks
from ctm_fast.denoiser import Denoiser
from ctm_fast.losses import OBJECTIVES, Batch, Consistency, Models, Objective, evaluate
from ctm_fast.models import shared_dropout
from ctm_fast.rng import stream

from .tools import label_batch


def trio(objective: Objective) -> Models:
    small = {"model_channels": 32, "num_blocks": 1, "dropout": 0.2}
    teacher = Denoiser(networks.build("digits", seed=1, **small)).eval().requires_grad_(False)
    with torch.no_grad():  # some layers start near zero, where dropout would not show
        for parameter in teacher.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=stream(9))
    kind = getattr(objective, "student_kind", "trajectory")
    student, target = (of_kind(teacher, kind, seed).train() for seed in (2, 3))
    student.requires_grad_(True)
    teacher.kind = getattr(objective, "teacher_kind", "denoiser")
    companion = getattr(objective, "companion", lambda models: None)
    needs = objective.needs
    models = Models(
        student,
        target.requires_grad_(False) if "target" in needs else None,
        teacher if "teacher" in needs else None,
        weak=copy.deepcopy(teacher) if "weak" in needs else None,
    )
    return replace(models, companion=companion(models))


def of_kind(teacher: Denoiser, kind: str, seed: int) -> Denoiser:
    """Model of a kind that starts from the teacher's weights, moved a little."""
    if kind == "trajectory":
        return networks.student_from(teacher, seed)
    model = copy.deepcopy(teacher)
    model.kind = kind
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=stream(10, seed))
    return model


def batch_for(objective: Objective, size: int = 6) -> Batch:
    images = torch.rand(size, 1, 8, 8, generator=stream(4)) * 2 - 1
    return Batch(images, label_batch(size), objective.draw(size, (1, 8, 8), stream(0, 0)))


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_contract(name: str) -> None:
    objective = OBJECTIVES[name]()
    assert isinstance(objective, Objective)
    assert objective.needs <= {"target", "teacher", "weak"}
    assert set(objective.balance) <= set(objective.terms[1:])
    models, batch = trio(objective), batch_for(objective)
    with shared_dropout("cpu", 7):
        losses = evaluate(objective, batch, models)
    assert tuple(losses) == objective.terms
    for term, loss in losses.items():
        assert loss.shape == (6,)
        assert loss.isfinite().all()
        assert (loss >= 0).all() or term == "gan", "a mean of logits"
    sum(loss.mean() for loss in losses.values()).backward()
    for parameter in models.student.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    assert models.student.last_layer.weight.grad.abs().sum() > 0
    for other in (models.target, models.teacher, models.weak):
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
        # A forward pass may move the buffers of what is trained beside the student.
        same = replace(models, companion=copy.deepcopy(models.companion))
        with shared_dropout("cpu", seed):
            runs.append(evaluate(objective, batch_for(objective), same))
    for term in objective.terms:
        assert torch.equal(runs[0][term], runs[1][term])
        assert not torch.equal(runs[0][term], runs[2][term])


SHARED = [name for name in OBJECTIVES if issubclass(OBJECTIVES[name], Consistency)]


@pytest.mark.parametrize("name", SHARED)
def test_both_passes_have_the_same_dropout_masks(name: str) -> None:
    objective = OBJECTIVES[name]()
    models, batch = trio(objective), batch_for(objective)
    objective.prepare(batch, models)
    # Masks are functions of the random state in which a pass begins.
    seen: dict[bool, set[bytes]] = {True: set(), False: set()}

    def note(*_: object) -> None:
        seen[torch.is_grad_enabled()].add(torch.get_rng_state().numpy().tobytes())

    for model in (models.student, models.target, models.teacher):
        if model is not None:
            model.net.register_forward_pre_hook(note)
    with shared_dropout("cpu", 7):
        objective.loss("consistency", batch, models)
    assert len(seen[True]) > 0
    assert seen[False] <= seen[True]
    assert seen[False] or name == "pd", "no target was computed"


@pytest.mark.parametrize("name", SHARED)
def test_loss_does_not_depend_on_the_microbatch(name: str) -> None:
    objective = OBJECTIVES[name]()
    models, batch = trio(objective), batch_for(objective)
    for model in (models.student, models.target, models.teacher):
        if model is not None:
            model.eval()  # masks are drawn per call
    with torch.no_grad():
        objective.prepare(batch, models)
        whole = objective.loss("consistency", batch, models)
        parts = [objective.loss("consistency", batch.slice(i, i + 2), models) for i in (0, 2, 4)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", SHARED)
def test_another_kind_of_student_is_refused(name: str) -> None:
    objective = OBJECTIVES[name]()
    models, batch = trio(objective), batch_for(objective)
    models.student.kind = "something"
    with pytest.raises(ValueError, match=f"kind '{objective.student_kind}', got kind 'something'"):
        objective.prepare(batch, models)


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_json_round_trip(name: str) -> None:
    objective = OBJECTIVES[name]()
    text = json.dumps(OBJECTIVES.to_json(objective))
    assert OBJECTIVES.from_json(json.loads(text)) == objective
    with pytest.raises(ValueError, match="unknown fields"):
        OBJECTIVES.from_json({"name": name, "nonsense": 1})
