"""One update: clipping, averages, what is skipped; loss scaling of fp16: growth, state."""

import pytest
import torch

from ctm_fast.kernels import _native
from ctm_fast.trainer import EMA, NonFiniteLoss, Rate, TrainConfig
from ctm_fast.trainer.scaling import LossScale, Update
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


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_only_what_is_named_moves(precision):
    student, companion = tiny.denoiser(), torch.nn.Linear(2, 2)
    followers = [EMA(student, Rate(0.5))]
    config = TrainConfig(precision=precision)
    update = Update(student, config, followers, companion, None, (0.5, 0.9))
    parts = {"student": student, "companion": companion, "average": followers[0].model}
    for moves, expected in (
        ({"companion"}, {"companion"}),
        ({"student"}, {"student", "average"}),
        ({"student", "companion"}, set(parts)),
    ):
        before = {name: tiny.weights(module) for name, module in parts.items()}
        for weight in (*student.parameters(), *companion.parameters()):
            weight.grad = torch.full_like(weight, update.scale)
        student.net.scale += 1
        assert update(torch.tensor(1.0), 0.1, [0.5], moves)
        for name, module in parts.items():
            values = [p for k, p in tiny.weights(module).items() if "scale" not in k]
            old = [p for k, p in before[name].items() if "scale" not in k]
            assert all(torch.equal(a, b) != (name in expected) for a, b in zip(values, old))
        copied = torch.equal(followers[0].model.net.scale, student.net.scale)
        assert copied == ("student" in moves)
    if update.scaler is not None:
        assert update.scaler.good_steps == 3


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
    moments = [update.optimizer.state[weight]["exp_avg"] for weight in update.parameters]
    squares = sum(float((m / (1 - 0.9)).square().sum()) for m in moments)
    assert squares**0.5 == pytest.approx(0.5, rel=1e-4)
    assert all(torch.equal(w.grad, torch.ones_like(w)) for w in student.parameters())


def test_scale_grows_after_good_steps_and_reads_the_state_of_torch():
    scale = LossScale(scale=8.0, growth_interval=3)
    for finite in (True, True, False, True, True, True, True):
        scale.update(finite)
    assert (scale.scale, scale.good_steps) == (8.0, 1)
    theirs = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=50)
    theirs.scale(torch.zeros(()))
    scale.restore(theirs.state_dict())
    assert scale.to_json() == theirs.state_dict()
    assert LossScale().to_json() == torch.amp.GradScaler("cpu").state_dict()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gradient_that_is_not_finite_changes_nothing(precision):
    student = tiny.denoiser()
    followers = [EMA(student, Rate(0.5))]
    update = Update(student, TrainConfig(precision=precision), followers)
    for bad in (False, True):
        before = [tiny.weights(student), tiny.weights(followers[0].model)]
        for weight in student.parameters():
            weight.grad = torch.full_like(weight, float("nan") if bad else update.scale)
        applied = update(torch.tensor(float("nan") if bad else 1.0), 0.1, [0.5])
        assert applied == (not bad or precision != "fp16")
        for model, old in zip((student, followers[0].model), before):
            for name, value in model.named_parameters():
                assert torch.equal(value, old[name]) == bad
        steps = {float(s["step"]) for s in update.optimizer.state.values()}
        assert steps == {1.0}


def test_averages_and_buffers_follow_like_ema_update():
    student = tiny.denoiser()
    fused, plain = ([EMA(student, Rate(d)) for d in (0.5, 0.9)] for _ in range(2))
    student.net.first.weight.requires_grad_(False)
    update = Update(student, TrainConfig(), fused)
    for step in range(3):
        student.net.scale.fill_(step)
        for weight in update.parameters:
            weight.grad = torch.full_like(weight, 1.0 + step)
        assert update(torch.tensor(1.0), 0.1, [0.5, 0.9])
        for average in plain:
            average.update(student, 0, 8)
    for one, other in zip(fused, plain):
        for name, value in other.model.state_dict().items():
            torch.testing.assert_close(one.model.state_dict()[name], value)


@pytest.mark.skipif(_native.ABSENT is not None, reason=str(_native.ABSENT))
def test_a_run_makes_one_call_per_step(monkeypatch):
    calls = []
    original = _native.module.optimizer_step
    monkeypatch.setattr(
        _native.module, "optimizer_step", lambda *args: (calls.append(args), original(*args))
    )
    monkeypatch.setattr(EMA, "update", None)
    run = tiny.trainer(steps=3, ema=(0.5, 0.9), clip_grad=1.0)
    run.fit()
    assert len(calls) == 3
    assert len(run._update.averages) == 3, "two averages and the target"


def test_an_overflowing_step_is_repeated_on_the_same_batch():
    run = tiny.trainer(precision="fp16", steps=2, dropout=0.5)
    run._update.restore({**run._update.to_json(), "scale": 2.0**40})
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
