"""MeanFlow's loss: the identity, flow matching, weights, guidance, derivatives, training."""

import pytest
import torch

from ctm_fast import models as networks
from ctm_fast.denoiser import Denoiser
from ctm_fast.losses import Batch, MeanFlow, Models, evaluate
from ctm_fast.losses.linear_path import PUBLISHED_TIMES, FlowTimes, average_velocity, path_point
from ctm_fast.models import shared_dropout
from ctm_fast.registry import fields_from_json, fields_to_json
from ctm_fast.rng import stream
from tests.trainer import tiny

from .flow_oracle import FLOW, exact_map, exact_velocity, map_error, train
from .oracle import draws
from .tools import constant, label_batch

PLAIN = MeanFlow(power=0.0, times=FlowTimes(sort=True, moving=1.0))


def unet(dropout: float = 0.2, dtype: torch.dtype = torch.float64) -> Denoiser:
    """Tiny class-conditional U-Net with destination embedding, in training mode."""
    options = dict(model_channels=16, num_blocks=1, attn_resolutions=(4,), label_dim=10)
    net = networks.build("ctm-digits", seed=1, dropout=dropout, **options).to(dtype)
    with torch.no_grad():  # some layers start near zero
        for i, weight in enumerate(net.parameters()):
            weight += 0.05 * torch.randn(weight.shape, generator=stream(9, i))
    return Denoiser(net.train(), FLOW)


def batch_of(objective: MeanFlow, size: int = 6) -> Batch:
    images = torch.rand(size, 1, 8, 8, generator=stream(4)).double() * 2 - 1
    draw = objective.draw(size, (1, 8, 8), stream(0, 0))
    return Batch(images, label_batch(size), {**draw, "noise": draw["noise"].double()})


def loss_of(objective: MeanFlow, model: Denoiser, batch: Batch, seed: int = 3) -> torch.Tensor:
    with shared_dropout("cpu", seed):
        return evaluate(objective, batch, Models(model))["meanflow"]


def exact_batch(size: int = 300) -> Batch:
    """Images and noise whose difference is the exact velocity of the point between them."""
    t, r = FlowTimes(0.0, 1.5, -2.0, 1.5, moving=0.8).sample(size, stream(1))
    noise = torch.randn(size, 1, 1, 1, generator=stream(2), dtype=torch.float64)
    z = path_point(draws(size), noise, t).flatten()
    v = exact_velocity(z, t)
    images, noise = (z - t * v).reshape(-1, 1, 1, 1), (z + (1 - t) * v).reshape(-1, 1, 1, 1)
    return Batch(images, None, {"t": t, "r": r, "noise": noise})


@pytest.mark.parametrize("how", ["forward", "difference"])
def test_the_exact_map_has_no_residual(how):
    objective = MeanFlow(power=0.0, how=how)
    residual = loss_of(objective, exact_map(), exact_batch()).max().sqrt()
    assert residual < 1e-8
    wrong = loss_of(objective, exact_map(wrong=0.1), exact_batch()).max().sqrt()
    assert wrong > 1e-2


def test_images_that_stay_are_flow_matching_bit_by_bit():
    objective = MeanFlow(times=FlowTimes(moving=0.5), power=0.75, eps=1e-3)
    model, batch = unet(), batch_of(objective, 12)
    loss = loss_of(objective, model, batch)
    t, noise, still = batch.draw["t"], batch.draw["noise"], batch.draw["t"] == batch.draw["r"]
    assert 0 < still.sum() < 12
    # They go through the network first, by themselves.
    images, noise, t, labels = batch.images[still], noise[still], t[still], batch.labels[still]
    z = path_point(images, noise, t)
    with shared_dropout("cpu", 3):
        u = average_velocity(model, z, t, t, labels)
    error = ((u - (noise - images)) ** 2).flatten(1).sum(1)
    assert torch.equal(loss[still], error / (error + 1e-3) ** 0.75)
    # Plain denoising: |u - v| = |D - image| / t.
    with shared_dropout("cpu", 3):
        denoised = model(z / (1 - t).reshape(-1, 1, 1, 1), t / (1 - t), labels)
    weighted = ((denoised - images) ** 2).flatten(1).sum(1) / t**2
    torch.testing.assert_close(weighted, error, rtol=1e-9, atol=0)


def test_images_that_stay_and_images_that_jump_go_apart():
    objective, model = MeanFlow(times=FlowTimes(moving=0.5)), unet(dropout=0.0)
    batch = batch_of(objective, 12)
    apart = loss_of(objective, model, batch)
    assert 0 < batch.draw["moves"].sum() < 12
    calls = []
    model.net.register_forward_hook(lambda net, given, out: calls.append(len(out)))
    again = loss_of(objective, model, batch)
    jump = int(batch.draw["moves"].sum())
    # Those that stay, then derivative and estimate of those that jump.
    assert calls == [12 - jump, jump, jump] and torch.equal(again, apart)
    order = objective.order(batch)
    assert torch.equal(batch.draw["moves"][order].diff() >= 0, torch.ones(11).bool())
    del batch.draw["moves"]
    torch.testing.assert_close(loss_of(objective, model, batch), apart, rtol=1e-9, atol=0)
    assert calls[3:] == [12, 12] and objective.order(batch) is None


@pytest.mark.parametrize(("power", "eps"), [(0.0, 1e-3), (0.75, 1e-3), (1.0, 0.01)])
def test_loss_by_hand(power, eps):
    """Squared error, summed, to v - (t - r) du/dt by central differences with the same masks."""
    objective = MeanFlow(times=PLAIN.times, power=power, eps=eps)
    model, batch = unet(), batch_of(objective)
    loss = loss_of(objective, model, batch)
    t, r, noise = (batch.draw[name] for name in ("t", "r", "noise"))
    v, z, values, h = noise - batch.images, path_point(batch.images, noise, t), [], 1e-6
    for step in (h, -h, 0):
        with shared_dropout("cpu", 3):
            values.append(average_velocity(model, z + step * v, t + step, r, batch.labels))
    slope = (values[0] - values[1]).detach() / (2 * h)
    target = v - (t - r).reshape(-1, 1, 1, 1) * slope
    error = ((values[2] - target) ** 2).flatten(1).sum(1)
    expected = error / (error.detach() + eps) ** power
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    # The gradient is that of the weighted error: none through target and weight.
    weights = list(model.parameters())
    found = torch.autograd.grad(loss.sum(), weights, allow_unused=True)
    by_hand = torch.autograd.grad(expected.sum(), weights, allow_unused=True)
    for own, other in zip(found, by_hand, strict=True):
        if other is not None:
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)


def test_terms_do_not_depend_on_the_microbatch():
    model, batch = unet(dropout=0.0), batch_of(PLAIN)
    whole = loss_of(PLAIN, model, batch)
    parts = [PLAIN.loss("meanflow", batch.slice(i, i + 2), Models(model)) for i in (0, 2, 4)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-9, atol=0)


def test_guidance_mixes_the_students_own_velocities():
    objective = MeanFlow(
        times=FlowTimes(moving=0.0), omega=0.2, kappa=0.7, guided_to=0.4, label_dropout=0.5
    )
    model, batch = unet(dropout=0.0), batch_of(objective, 24)
    objective.prepare(batch, Models(model))
    draw, labels = batch.draw, batch.labels
    t, z, keep = draw["t"], draw["z"], draw["keep_label"]
    v = draw["noise"] - batch.images
    guided = 0.2 * v + 0.1 * average_velocity(model, z, t, t)
    guided = guided + 0.7 * average_velocity(model, z, t, t, labels)
    here = keep & (t <= 0.4)
    assert 0 < here.sum() < keep.sum() < 24
    torch.testing.assert_close(draw["v"][here], guided[here].detach(), rtol=1e-9, atol=1e-9)
    assert torch.equal(draw["v"][~here], v[~here])
    # Dropped labels are no labels.
    told = objective.labels(batch, Models(model))
    assert torch.equal(told[~keep], torch.zeros(int((~keep).sum()), 10).double())
    u = average_velocity(model, z, t, t, told)
    expected = average_velocity(model, z, t, t, labels)[keep]
    torch.testing.assert_close(u[keep], expected, rtol=1e-9, atol=1e-9)
    none = average_velocity(model, z, t, t)[~keep]
    torch.testing.assert_close(u[~keep], none, rtol=1e-9, atol=1e-9)


def test_omega_alone_is_a_guidance_scale():
    model = unet(dropout=0.0)
    batch = batch_of(MeanFlow(omega=3.0))
    MeanFlow(omega=3.0).prepare(batch, Models(model))
    v = batch.draw["noise"] - batch.images
    without = average_velocity(model, batch.draw["z"], batch.draw["t"], batch.draw["t"]).detach()
    torch.testing.assert_close(batch.draw["v"], without + 3.0 * (v - without))


def test_guidance_needs_labels():
    objective = MeanFlow(kappa=0.5)
    batch = batch_of(objective)
    batch.labels = None
    with pytest.raises(ValueError, match="guides by labels, and this batch has none"):
        objective.prepare(batch, Models(unet()))


def test_only_a_flow_map_can_be_trained():
    batch = batch_of(PLAIN)
    with pytest.raises(ValueError, match="MeanFlow trains a student of kind 'trajectory'"):
        PLAIN.prepare(batch, Models(constant(0.0, False)))
    with pytest.raises(ValueError, match=r"unknown term 'ctm'; this objective has \('meanflow',\)"):
        PLAIN.loss("ctm", batch, Models(unet()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"power": -1.0}, "need power >= 0 and eps > 0, got -1.0"),
        ({"eps": 0.0}, "need power >= 0 and eps > 0, got 0.75 and 0.0"),
        ({"kappa": 1.0}, r"kappa must be in \[0, 1\), got 1.0"),
        ({"guided_from": 0.6, "guided_to": 0.4}, "got 0.6 and 0.4"),
        ({"label_dropout": 2.0}, r"label_dropout must be in \[0, 1\], got 2.0"),
        ({"how": "exact"}, "unknown derivative 'exact'"),
    ],
)
def test_bad_options_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        MeanFlow(**fields)


@pytest.mark.parametrize("times", PUBLISHED_TIMES.values(), ids=PUBLISHED_TIMES)
def test_json_round_trip(times):
    objective = MeanFlow(times, power=1.0, eps=0.01, kappa=0.5, label_dropout=0.1)
    assert fields_from_json(MeanFlow, fields_to_json(objective), "meanflow") == objective


def test_the_trainer_splits_batches_without_changing_the_result():
    """Microbatches and dropout go through the trainer as for any other objective."""
    weights = []
    for microbatch in (None, 3):
        student = tiny.denoiser()
        student.precond = FLOW
        run = tiny.trainer(MeanFlow(), student=student, steps=3, microbatch=microbatch)
        run.fit()
        weights.append(tiny.weights(run.student))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-6)
    start = tiny.weights(tiny.denoiser())
    assert any(not torch.equal(start[name], value) for name, value in weights[0].items())


# Weights that depend on the error turn the mean of noisy targets into something else, which many
# pixels hide and one pixel does not: power 0. The data's deviation, 0.77, is the error of a
# network that answers with the mean.
LEARNING = MeanFlow(power=0.0, how="difference")


def test_a_short_training_learns_the_map():
    model = train(LEARNING, steps=500, size=512, lr=5e-3)
    assert max(map_error(model, steps) for steps in (1, 2, 4)) < 0.35


@pytest.mark.slow
def test_a_longer_training_learns_it_better():
    model = train(LEARNING, steps=1500, size=1024, lr=5e-3)
    assert max(map_error(model, steps) for steps in (1, 2, 4)) < 0.15
