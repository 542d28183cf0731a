"""Loss scaling of fp16: overflow, growth, state."""

import pytest
import torch

from ctm_fast.trainer import NonFiniteLoss, TrainConfig
from ctm_fast.trainer.scaling import Update
from tests.trainer import tiny


def loaded(config, value=1.0):
    """(student, update) with every gradient element equal to `value` times the scale."""
    student = tiny.denoiser()
    update = Update(student, config)
    for weight in student.parameters():
        weight.grad = torch.full_like(weight, value * update.scale)
    return student, update


def test_without_scale_every_update_is_applied():
    student, update = loaded(TrainConfig(optimizer="adam"))
    before = tiny.weights(student)
    assert update(torch.tensor(1.0), lr=0.5)
    assert update.scale == 1.0
    assert update.to_json() is None
    for name, value in student.named_parameters():
        torch.testing.assert_close(value, before[name] - 0.5, rtol=1e-5, atol=1e-5)


def test_overflow_skips_the_update_and_halves_the_scale():
    student, update = loaded(TrainConfig(precision="fp16"), value=float("inf"))
    before = tiny.weights(student)
    assert update.scale == 2**16
    assert not update(torch.tensor(float("inf")), lr=0.5)
    assert update.scale == 2**15
    assert all(torch.equal(before[name], value) for name, value in student.named_parameters())
    for weight in student.parameters():
        weight.grad = torch.full_like(weight, update.scale)
    assert update(torch.tensor(1.0), lr=0.5)
    assert not torch.equal(before["net.first.weight"], student.net.first.weight)


def test_scale_is_unscaled_before_the_update():
    config = TrainConfig(optimizer="adam")
    (plain, one), (scaled, two) = loaded(config), loaded(config.replace(precision="fp16"))
    for update in (one, two):
        assert update(torch.tensor(1.0), lr=0.1)
    for a, b in zip(plain.parameters(), scaled.parameters()):
        assert torch.equal(a, b)


def test_state_of_the_scale_is_restored():
    _, update = loaded(TrainConfig(precision="fp16"), value=float("inf"))
    update(torch.tensor(float("inf")), lr=0.1)
    other = Update(tiny.denoiser(), TrainConfig(precision="fp16"))
    other.restore(update.to_json())
    assert other.scale == update.scale == 2**15
    assert other.to_json() == update.to_json()


def test_clipping_bounds_the_gradient():
    student, update = loaded(TrainConfig(clip_grad=0.5))
    count = sum(weight.numel() for weight in student.parameters())
    update(torch.tensor(count**0.5), lr=0.1)
    squares = sum(float(weight.grad.square().sum()) for weight in student.parameters())
    assert squares**0.5 == pytest.approx(0.5, rel=1e-4)


def test_an_overflowing_step_is_repeated_on_the_same_batch():
    run = tiny.trainer(precision="fp16", steps=2, dropout=0.5)
    run._update.scaler.load_state_dict({**run._update.to_json(), "scale": 2.0**40})
    seen = []
    run._gradients = _Recording(run._gradients, seen)
    run.fit()
    steps = [step for step, _ in seen]
    assert run.step == 2
    assert steps.count(0) > 1
    assert steps[-1] == 1
    assert len({id(batch) for _, batch in seen}) == 2
    assert run._update.scale < 2.0**40


def test_a_gradient_that_no_scale_makes_finite_stops():
    with pytest.raises(NonFiniteLoss, match="step 3"):
        tiny.trainer(tiny.Failing(spoil="gradient"), precision="fp16").fit()


class _Recording:
    def __init__(self, inner, seen):
        self.inner, self.seen = inner, seen

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, step, batch, *rest):
        self.seen.append((step, batch))
        return self.inner(step, batch, *rest)
