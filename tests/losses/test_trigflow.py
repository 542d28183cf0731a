"""TrigFlow and EDM: networks, velocities of teachers, guidance."""

import dataclasses

import torch

from ctm_fast.losses import Models
from ctm_fast.losses.trigflow import column, cos_sin, raw, teacher_velocity
from ctm_fast.wrappers import TrigFlowTime

from .oracle import DATA, STD, exact_teacher
from .trig_oracle import DISTIL, PLAIN, batch_at, curve, unet, unet_batch


def test_scaled_network_is_trigflows_up_to_the_sign():
    model, sd = curve(), STD
    sigma = torch.tensor([0.01, 0.5, 3.0, 80.0], dtype=torch.float64)
    time = TrigFlowTime(sd)
    torch.testing.assert_close(time.sigma(time.time(sigma)), sigma, rtol=1e-12, atol=0)
    batch = batch_at(sigma)
    PLAIN.prepare(batch, Models(model))
    x_ve = batch.images + column(sigma, batch.images) * batch.draw["noise"]
    cos, sin = cos_sin(sigma, sd, x_ve)
    x = batch.draw["x_t"]
    torch.testing.assert_close(x, column(time.time(sigma).cos(), x) * x_ve)
    F = raw(model, x, sigma, None)
    torch.testing.assert_close(cos * x + sd * sin * F, model(x_ve, sigma))
    # The data's velocity is the derivative of x along t.
    moved = sin * -batch.images + cos * sd * batch.draw["noise"]
    torch.testing.assert_close(batch.draw["velocity"], moved)


def test_velocity_of_a_teacher():
    sigma = torch.tensor([0.002, 0.1, 1.0, 80.0], dtype=torch.float64)
    batch = batch_at(sigma)
    models = Models(curve(), teacher=exact_teacher())
    DISTIL.prepare(batch, models)
    x, t = batch.draw["x_t"], TrigFlowTime(STD).time(sigma)
    h = 1e-4
    steps = []
    for sign in (h, -h):
        at = TrigFlowTime(STD).sigma(t + sign)
        x_ve = (x / column(t.cos(), x)).reshape(-1, 1)
        moved = torch.cat([DATA.jump(r[None], a, b) for r, a, b in zip(x_ve, sigma, at)])
        steps.append(column((t + sign).cos(), x) * moved.reshape(x.shape))
    reference = (steps[0] - steps[1]) / (2 * h)
    torch.testing.assert_close(batch.draw["velocity"], reference, rtol=1e-5, atol=1e-5)
    # At the smallest level float32 images lose nothing.
    single = teacher_velocity(models, x.float(), sigma, None, STD)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), batch.draw["velocity"], rtol=1e-4, atol=1e-4)


def test_guidance_moves_away_from_the_weak_model():
    batch = batch_at(torch.tensor([0.5, 2.0]))
    strong, weak = exact_teacher(), curve(3, kind="denoiser").requires_grad_(False)
    velocities = []
    for teacher, objective in (
        (strong, DISTIL),
        (weak, DISTIL),
        (strong, dataclasses.replace(DISTIL, guidance=1.5)),
    ):
        objective.prepare(batch, Models(curve(), teacher=teacher, weak=weak))
        velocities.append(batch.draw["velocity"])
    own, bad, guided = velocities
    torch.testing.assert_close(guided, bad + 1.5 * (own - bad), rtol=1e-9, atol=1e-9)


def test_guidance_by_leaving_out_labels():
    teacher = unet("digits").eval().requires_grad_(False)
    batch = unet_batch(teacher)
    found = []
    for labels, weight in ((batch.labels, 1.0), (None, 1.0), (batch.labels, 2.0)):
        batch.labels = labels
        objective = dataclasses.replace(DISTIL, guidance=weight)
        objective.prepare(batch, Models(unet("digits"), teacher=teacher))
        found.append(batch.draw["velocity"])
    own, none, guided = found
    assert not torch.allclose(own, none)
    torch.testing.assert_close(guided, 2 * own - none, rtol=1e-9, atol=1e-9)
