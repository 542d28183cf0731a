"""sCM: tangent, derivative, warm-up, expectations, dropout, learned weight, short trainings."""

import dataclasses

import pytest
import torch

from ctm_fast.denoiser import Denoiser
from ctm_fast.densities import LogNormal
from ctm_fast.losses import SCM, Batch, Models, evaluate
from ctm_fast.losses.trigflow import raw
from ctm_fast.models import shared_dropout
from ctm_fast.noise_embeddings import DiscreteTime
from ctm_fast.precond import CM, EDM, Preconditioning
from ctm_fast.rng import stream
from ctm_fast.wrappers import TrigFlowTime

from .oracle import DATA, HIGH, STD, Curve, column, draws, exact_teacher
from .trig_oracle import (
    DISTIL,
    NETWORKS,
    PLAIN,
    batch_at,
    curve,
    exact_map,
    to_image,
    unet,
    unet_batch,
)


def tangent(objective, batch, models, progress=1.0):
    """(g, F) of a prepared batch."""
    objective.prepare(batch, models, progress)
    slope = objective.slope(batch, models)
    F = raw(models.student, batch.draw["x_t"], batch.draw["sigma"], batch.labels).detach()
    return objective.tangent(F, slope, batch, models, progress), F


@pytest.mark.parametrize("how", ["forward", "difference"])
def test_tangent_of_the_exact_map_is_zero(how):
    sigma = torch.linspace(-6, 4.38, 200).exp()
    models = Models(exact_map(), teacher=exact_teacher())
    batch = batch_at(sigma)
    objective = dataclasses.replace(DISTIL, how=how)
    g, F = tangent(objective, batch, models)
    assert g.abs().max() < 1e-8
    half = dataclasses.replace(objective, warmup=1.0)
    part = half.tangent(F, objective.slope(batch, models), batch, models, 0.0)
    assert part.abs().max() > 0.1, "without its second half the tangent is not zero"


@pytest.mark.parametrize("name", NETWORKS)
def test_slope_of_networks(name):
    model = unet(name)
    batch, models = unet_batch(model), Models(model)
    PLAIN.prepare(batch, models)
    x, v, sd = batch.draw["x_t"], batch.draw["velocity"], model.sigma_data
    t, time, h = TrigFlowTime(sd).time(batch.draw["sigma"]), TrigFlowTime(sd), 1e-6
    ends = []
    for sign in (h, -h):
        with shared_dropout("cpu", 5), torch.no_grad():
            ends.append(raw(model, x + sign * v, time.sigma(t + sign), batch.labels))
    factor = (t.cos() * t.sin()).reshape(-1, 1, 1, 1)
    reference = factor * (ends[0] - ends[1]) / (2 * h)
    for how in ("forward", "difference"):
        with shared_dropout("cpu", 5):
            slope = dataclasses.replace(PLAIN, how=how).slope(batch, models)
        torch.testing.assert_close(slope, reference, rtol=1e-5, atol=1e-7)


def test_slope_keeps_its_digits_at_both_ends():
    sigma = torch.tensor([0.002, 0.002, 80.0, 80.0])
    slopes = []
    for dtype in (torch.float64, torch.float32):
        model, batch = unet("digits", dtype).eval(), unet_batch(unet("digits"), 4)
        batch.images, batch.draw["noise"] = batch.images.to(dtype), batch.draw["noise"].to(dtype)
        batch.draw["sigma"] = sigma.double()
        PLAIN.prepare(batch, Models(model))
        slopes.append(PLAIN.slope(batch, Models(model)).double())
    assert slopes[0].abs().amax((1, 2, 3)).min() > 1e-2
    torch.testing.assert_close(slopes[1], slopes[0], rtol=0, atol=1e-4)


def gradients(loss, model):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()]).clone()


@pytest.mark.parametrize("normalisation", ["none", "norm"])
def test_without_warm_up_it_matches_velocities(normalisation):
    model = curve()
    objective = dataclasses.replace(PLAIN, warmup=0.5, normalisation=normalisation)
    batch = batch_at(objective.density.sample(50, stream(3), torch.float64))
    models = Models(model)
    ours = gradients(evaluate(objective, batch, models)["consistency"].mean(), model)
    x, sigma = batch.draw["x_t"], batch.draw["sigma"]
    cos = column(TrigFlowTime(STD).scale(sigma), x)
    error = batch.draw["velocity"] + STD * raw(model, x, sigma, None)
    size = (cos**2 * error).detach().abs() + objective.offset if normalisation == "norm" else 1.0
    matching = (cos**2 / size * error**2 / STD).mean()
    torch.testing.assert_close(ours, gradients(matching, model), rtol=1e-9, atol=1e-12)


def posterior(x, sigma, size):
    """`size` images of the mixture given one noisy image x at level sigma."""
    at = torch.full((1, 1), x, dtype=torch.float64)
    var, log_joint, offset = DATA._parts(at, sigma)
    which = torch.multinomial(log_joint.softmax(1)[0], size, True, generator=stream(1))
    means = (DATA.means + (DATA.stds**2 / var)[..., None] * offset)[0, :, 0]
    stds = (DATA.stds**2 * sigma**2 / var[0]).sqrt()
    noise = torch.randn(size, generator=stream(2), dtype=torch.float64)
    return (means[which] + stds[which] * noise).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize(("x", "sigma"), [(0.2, 0.6), (-0.5, 1.0), (3.0, 5.0)])
def test_data_and_teacher_give_one_gradient_in_expectation(x, sigma):
    size, model = 20_000, curve()
    models = Models(model, teacher=exact_teacher())
    images = posterior(x, sigma, size)
    levels = torch.full((size,), sigma, dtype=torch.float64)
    found = []
    for objective in (PLAIN, DISTIL):
        batch = Batch(images, None, {"sigma": levels, "noise": (x - images) / sigma})
        g, _ = tangent(objective, batch, models)
        loss = evaluate(objective, batch, models)["consistency"].mean()
        found.append((g.flatten(), gradients(loss, model)))
    (data, from_data), (teacher, from_teacher) = found
    assert teacher.std() < 1e-12
    error = float(data.std()) / size**0.5
    assert abs(float(data.mean() - teacher.mean())) < 4 * error
    assert error < 0.02
    ratio = (from_data - from_teacher).norm() / from_teacher.norm()
    assert ratio < 5 * error / teacher[0].abs()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("how", ["forward", "difference"])
def test_derivative_and_estimate_have_the_same_dropout_masks(how, dtype, monkeypatch):
    model = unet("digits", torch.float32)
    model.dtype = dtype
    batch, seen = unet_batch(model), []
    batch.images, batch.draw["noise"] = batch.images.float(), batch.draw["noise"].float()
    objective, models = dataclasses.replace(PLAIN, how=how), Models(model)
    objective.prepare(batch, models)
    # Along no direction the derivative calls the network where the estimate does.
    batch.draw["velocity"].zero_()
    monkeypatch.setattr(torch.Tensor, "cos", lambda t: 0 * t)
    model.net.register_forward_hook(
        lambda net, args, F: seen.append(
            torch.autograd.forward_ad.unpack_dual(F).primal.detach().float()
        )
    )
    with shared_dropout("cpu", 5):
        objective.slope(batch, models)
        raw(model, batch.draw["x_t"], batch.draw["sigma"], batch.labels)
        raw(model, batch.draw["x_t"], batch.draw["sigma"], batch.labels)
    *derivative, estimate, later = seen
    exact = 1e-4 if dtype is None else 0.05
    for value in derivative:
        assert (value - estimate).norm() < exact * estimate.norm()
    assert (later - estimate).norm() > 0.2 * estimate.norm()


def test_learned_weight_in_the_loss():
    model, sigma = curve(), torch.tensor([0.1, 1.0, 10.0])
    learned = dataclasses.replace(PLAIN, learned_weighting=True)
    companion = learned.companion(Models(model))
    with torch.no_grad():
        companion.bias += 0.7
    losses = [
        evaluate(objective, batch_at(sigma), Models(model, companion=companion))["consistency"]
        for objective in (PLAIN, learned)
    ]
    w = companion(sigma.double()).double()
    torch.testing.assert_close(losses[1], w.exp() * losses[0] - w)
    assert PLAIN.companion(Models(model)) is None
    with pytest.raises(ValueError, match="needs the companion"):
        evaluate(learned, batch_at(sigma), Models(model))


def test_refusals():
    for bad, message in (
        (dict(warmup=1.5), "warmup"),
        (dict(how="exact"), "unknown derivative"),
        (dict(normalisation="l2"), "unknown normalisation"),
        (dict(offset=0.0), "offset"),
        (dict(guidance=2.0), "distil=True"),
    ):
        with pytest.raises(ValueError, match=message):
            SCM(**bad)
    batch = batch_at(torch.ones(2))
    with pytest.raises(ValueError, match="needs a teacher"):
        DISTIL.prepare(batch, Models(curve()))
    for precond, message in (
        (Preconditioning(CM(STD)), "EDM scalings"),
        (Preconditioning(EDM(STD), noise_embedding=DiscreteTime()), "DiscreteTime has none"),
    ):
        student = Denoiser(Curve(), precond, kind="consistency")
        with pytest.raises(ValueError, match=message):
            PLAIN.prepare(batch, Models(student))
    with pytest.raises(ValueError, match="kind 'consistency'"):
        PLAIN.prepare(batch, Models(Denoiser(Curve())))
    with pytest.raises(ValueError, match="unknown term"):
        PLAIN.loss("ctm", batch, Models(curve()))


def trained(objective, steps=600, size=128, lr=1e-2):
    """Root-mean-square error at HIGH of a student trained from nothing."""
    model = curve(dtype=torch.float32)
    models = Models(model, teacher=exact_teacher() if objective.distil else None)
    optimizer = torch.optim.Adam(model.parameters(), lr, betas=(0.9, 0.99))
    for step in range(steps):
        progress = step / steps
        optimizer.param_groups[0]["lr"] = lr * (1 - progress)
        draw = objective.draw(size, (1, 1, 1), stream(1, step), progress)
        batch = Batch(draws(size, step).float(), None, draw)
        loss = evaluate(objective, batch, models, progress)["consistency"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    share = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    x = HIGH * torch.special.ndtri(share).reshape(-1, 1, 1, 1)
    with torch.no_grad():
        found = model(x.float(), HIGH).double()
    levels = torch.full((len(x),), HIGH, dtype=torch.float64)
    return float((found - to_image(x, levels)).square().mean().sqrt())


def learner(distil, warmup):
    # Normalising one value per image leaves little more than its sign, whose mean is not that of
    # the data's velocity: large offset, or none of it. The levels reach the whole range.
    normalisation = "norm" if distil else "none"
    return SCM(
        LogNormal(0.5, 1.8),
        distil,
        normalisation=normalisation,
        offset=1.0,
        warmup=warmup,
        learned_weighting=False,
    )


@pytest.mark.parametrize(("distil", "limit"), [(True, 0.2), (False, 0.25)])
def test_training_comes_near_the_map(distil, limit):
    # The diffusion model's answer at HIGH, the mean, is off by 0.77.
    assert trained(learner(distil, 0.3)) < limit


@pytest.mark.slow
def test_longer_training_finds_the_map():
    assert trained(learner(True, 0.3), steps=3000, size=256) < 0.06
