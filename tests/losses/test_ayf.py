"""AYF's loss: the tangent of the exact map, warm-up, guidance, and its relation to MeanFlow."""

import pytest
import torch

from ctm_fast.denoiser import Denoiser
from ctm_fast.losses import AYF, Batch, MeanFlow, Models, evaluate
from ctm_fast.losses.linear_path import FlowTimes, average_velocity, velocity, velocity_slope
from ctm_fast.models import shared_dropout
from ctm_fast.precond import EDM, Preconditioning
from ctm_fast.registry import fields_from_json, fields_to_json
from ctm_fast.rng import stream
from tests.analytic import Gaussian, GaussianNet

from .flow_oracle import FLOW, exact_map, map_error, train
from .oracle import draws, exact_teacher
from .test_meanflow import unet
from .tools import label_batch

JUMPING = FlowTimes(sort=True, moving=1.0)
THEORY = AYF(times=JUMPING, limit=1.0, warmup=0.0, normalisation="none")


def teacher(std: float = 0.5, **options) -> Denoiser:
    """Exact denoiser of a Gaussian."""
    net = GaussianNet(Gaussian(0.1, std), resolution=8, destination=False).double()
    return net.denoiser(**options).requires_grad_(False)


def batch_of(objective: AYF, size: int = 6) -> Batch:
    images = torch.rand(size, 1, 8, 8, generator=stream(4)).double() * 2 - 1
    draw = objective.draw(size, (1, 8, 8), stream(0, 0))
    return Batch(images, None, {**draw, "noise": draw["noise"].double()})


def loss_of(objective: AYF, models: Models, batch: Batch, progress: float = 0.5) -> torch.Tensor:
    with shared_dropout("cpu", 3):
        return evaluate(objective, batch, models, progress)["ayf"]


@pytest.mark.parametrize("how", ["forward", "difference"])
def test_the_exact_map_has_no_tangent(how):
    times = FlowTimes(0.0, 1.5, -2.0, 1.5, moving=0.8)
    objective = AYF(times, limit=1.0, normalisation="none", how=how)
    t, s = times.sample(300, stream(1))
    noise = torch.randn(300, 1, 1, 1, generator=stream(2), dtype=torch.float64)
    for wrong, residual in ((0.0, (0, 1e-8)), (0.1, (1e-2, 10))):
        batch = Batch(draws(300), None, {"t": t, "s": s, "noise": noise})
        models = Models(exact_map(wrong), teacher=exact_teacher())
        found = loss_of(objective, models, batch).max().sqrt()
        assert residual[0] <= found < residual[1]


def test_without_normalisation_it_is_meanflow_with_the_teachers_velocity():
    models, batch = Models(unet(), teacher=teacher()), batch_of(THEORY)
    loss = loss_of(THEORY, models, batch)
    plain = MeanFlow(power=0.0)
    with shared_dropout("cpu", 3):
        batch.draw["r"] = batch.draw["s"]
        expected = plain.loss("meanflow", batch, models)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    weights = list(models.student.parameters())
    gradients = [
        torch.autograd.grad(value.sum(), weights, allow_unused=True) for value in (loss, expected)
    ]
    for own, other in zip(*gradients, strict=True):
        if own is not None:
            torch.testing.assert_close(own, other, rtol=1e-8, atol=1e-10)


def test_gradient_is_that_of_the_tangent():
    """-2 g dF/dw, with g = ((v - F) + w (s - t) dF/dt) / (norm + 0.1)."""
    objective = AYF(times=JUMPING, warmup=0.0)
    models, batch = Models(unet(), teacher=teacher()), batch_of(objective)
    loss = loss_of(objective, models, batch)
    draw, student = batch.draw, models.student
    t, s, z = draw["t"], draw["s"], draw["z"]
    v = velocity(models.teacher, z, t)
    torch.testing.assert_close(draw["v"], v)
    with shared_dropout("cpu", 3):
        slope = velocity_slope(student, z, t, s, v)
        F = average_velocity(student, z, t, s)
    g = (v - F.detach()) + 0.99 * (s - t).reshape(-1, 1, 1, 1) * slope
    norm = g.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    g = g / (norm + 0.1)
    assert (loss < 1).all()
    torch.testing.assert_close(loss, (g**2).flatten(1).sum(1), rtol=1e-9, atol=0)
    weight = student.last_layer.weight
    (found,) = torch.autograd.grad(loss.sum(), weight)
    (expected,) = torch.autograd.grad((F * (-2 * g)).sum(), weight)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_warm_up_ends_below_one():
    objective = AYF(warmup=0.2)
    found = [objective.strength(progress) for progress in (0.0, 0.1, 0.2, 0.9)]
    assert found == pytest.approx([0.0, 0.495, 0.99, 0.99])
    assert AYF(warmup=0.0).strength(0.0) == 0.99
    # At first it is flow matching of the teacher, whatever the destination.
    models, batch = Models(unet(dropout=0.0), teacher=teacher()), batch_of(AYF(times=JUMPING))
    loss = loss_of(AYF(times=JUMPING, normalisation="none"), models, batch, progress=0.0)
    u = average_velocity(models.student, batch.draw["z"], batch.draw["t"], batch.draw["s"])
    expected = ((u - batch.draw["v"]) ** 2).flatten(1).sum(1)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)


def test_autoguidance_moves_away_from_the_weak_model():
    objective = AYF(guidance=2.5)
    strong, weak = teacher(0.5), teacher(0.8)
    batch = batch_of(objective)
    objective.prepare(batch, Models(unet(), teacher=strong, weak=weak))
    z, t = batch.draw["z"], batch.draw["t"]
    expected = 2.5 * velocity(strong, z, t) - 1.5 * velocity(weak, z, t)
    torch.testing.assert_close(batch.draw["v"], expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="no labels to leave out"):
        objective.prepare(batch_of(objective), Models(unet(), teacher=strong))


def test_guidance_by_leaving_out_labels():
    objective, model = AYF(guidance=2.0), unet(dropout=0.0)
    batch = batch_of(objective)
    batch.labels = label_batch(6)
    objective.prepare(batch, Models(model, teacher=model))
    z, t = batch.draw["z"], batch.draw["t"]
    own, without = velocity(model, z, t, batch.labels), velocity(model, z, t)
    expected = (2 * own - without).detach()
    torch.testing.assert_close(batch.draw["v"], expected, rtol=1e-5, atol=1e-5)


def test_any_euler_student_and_any_teacher():
    """A student with EDM's scalings beside a teacher in float64 and one in float32."""
    student = unet(dropout=0.0)
    student.precond = Preconditioning(EDM(0.6))
    models = Models(student, teacher=teacher())
    loss = loss_of(THEORY, models, batch_of(THEORY))
    assert loss.isfinite().all()
    single = Models(student.float(), teacher=teacher().float())
    batch = batch_of(THEORY)
    batch.images, batch.draw["noise"] = batch.images.float(), batch.draw["noise"].float()
    found = loss_of(THEORY, single, batch)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), loss, rtol=2e-3, atol=1e-4)


def test_what_cannot_be_trained():
    batch = batch_of(THEORY)
    with pytest.raises(ValueError, match="AYF trains a student of kind 'trajectory'"):
        THEORY.prepare(batch, Models(teacher(), teacher=teacher()))
    with pytest.raises(ValueError, match="needs a teacher"):
        THEORY.prepare(batch, Models(unet()))
    with pytest.raises(ValueError, match=r"unknown term 'ctm'; this objective has \('ayf',\)"):
        THEORY.loss("ctm", batch, Models(unet()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"guidance": 0.5}, "guidance must be at least 1, got 0.5"),
        ({"warmup": 2.0}, r"warmup must be in \[0, 1\], got 2.0"),
        ({"limit": 0.0}, r"limit must be in \(0, 1\], got 0.0"),
        ({"offset": 0.0}, "offset must be positive, got 0.0"),
        ({"normalisation": "l2"}, "unknown normalisation 'l2'"),
        ({"how": "exact"}, "unknown derivative 'exact'"),
    ],
)
def test_bad_options_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        AYF(**fields)


def test_json_round_trip():
    objective = AYF(FlowTimes(sort=True), guidance=2.0, warmup=0.5, how="difference")
    assert fields_from_json(AYF, fields_to_json(objective), "ayf") == objective


# Pairs of times all over [0, 1], for samples in one step and in several.
TIMES = FlowTimes(-0.3, 2.0, -2.0, 2.0, sort=True, moving=0.9)
LEARNING = AYF(TIMES, limit=1.0, warmup=0.3, offset=1.0, how="difference")


def test_a_short_training_learns_the_map():
    model = train(LEARNING, steps=450, size=256, lr=1e-2, teacher=exact_teacher())
    assert model.precond == FLOW
    assert max(map_error(model, steps) for steps in (1, 2, 4)) < 0.3


@pytest.mark.slow
def test_a_longer_training_learns_it_better():
    networks = {"teacher": exact_teacher(), "width": 128}
    model = train(LEARNING, steps=4000, size=256, lr=5e-3, **networks)
    assert map_error(model) < 0.06
    assert max(map_error(model, steps) for steps in (2, 4)) < 0.1
