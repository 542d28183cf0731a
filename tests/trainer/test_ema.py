"""Averages: closed form, half-lives, ramp-up."""

import pytest
import torch

from ctm_fast.trainer import EMA, HalfLife, Rate, TrainConfig
from ctm_fast.trainer.ema import averages
from tests.trainer import tiny


def test_closed_form_after_three_steps():
    model, decay = tiny.denoiser(), 0.75
    average = EMA(model, Rate(decay))
    history = [tiny.weights(model)]
    for step in range(3):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(
                    torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
                )
        average.update(model, step * 8, 8)
        history.append(tiny.weights(model))
    for name, value in average.model.named_parameters():
        expected = decay**3 * history[0][name].double()
        for k in (1, 2, 3):
            expected += (1 - decay) * decay ** (3 - k) * history[k][name].double()
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)


def test_buffers_are_copied_and_nothing_requires_a_gradient():
    model = tiny.denoiser()
    average = EMA(model, Rate(0.9))
    model.net.scale.fill_(3.0)
    average.update(model, 0, 8)
    assert average.model.net.scale == 3.0
    assert not any(weight.requires_grad for weight in average.model.parameters())
    assert all(weight.requires_grad for weight in model.parameters())


def test_half_life_and_ramp_up():
    decay = HalfLife(kimg=2.0, rampup=0.05)
    assert decay(0, 100) == 0.0
    assert decay(10_000, 100) == pytest.approx(0.5 ** (100 / 500))
    assert decay(10**9, 100) == pytest.approx(0.5 ** (100 / 2000))


def test_the_config_says_which_averages_there_are():
    made = averages(tiny.denoiser(), TrainConfig(ema=(0.9, 0.99), ema_halflife_kimg=(5.0,)))
    assert [average.decay for average in made] == [Rate(0.9), Rate(0.99), HalfLife(5.0, 0.05)]
    assert not any(average.model.training for average in made)


def test_the_trainer_averages_every_step_and_the_target_with_its_own_rate():
    run = tiny.trainer(steps=3, ema=(0.5,), target_ema=0.25, ema_halflife_kimg=(0.001,))
    expected = {rate: tiny.weights(run.student) for rate in (0.5, 0.25)}
    for step in range(1, 4):
        run.fit(step)
        for rate, average in expected.items():
            for name, value in run.student.named_parameters():
                average[name] = rate * average[name] + (1 - rate) * value.detach()
    for model, rate in ((run.ema, 0.5), (run.models.target, 0.25)):
        for name, value in model.named_parameters():
            torch.testing.assert_close(value, expected[rate][name], rtol=1e-5, atol=1e-6)
    assert len(run.emas) == 2
    assert not run.ema.training
    assert run.models.target.training
