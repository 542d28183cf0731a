"""Gradients of a step: microbatches, adaptive weights, dropout."""

import dataclasses

import pytest
import torch

from ctm_fast.losses import CTM, DSM, Balance
from ctm_fast.trainer import gradients as module
from ctm_fast.trainer.distributed import World
from ctm_fast.trainer.gradients import StepGradients
from tests.trainer import tiny


def gradients(run, microbatch, step=0, scale=1.0):
    """(numbers, gradient by weight name) of one step of a trainer's models."""
    compute = StepGradients(
        run.objective, run.models, World(), batch_size=8, microbatch=microbatch, seed=0
    )
    batch = run._feed(step, 0.0)
    compute.prepare(step, batch, 0.0)
    numbers = compute(step, batch, 0.0, scale)
    return numbers, {n: p.grad.clone() for n, p in run.student.named_parameters()}


@pytest.mark.parametrize("microbatch", [8, 5, 4, 2, 1])
@pytest.mark.parametrize("objective", [DSM(), CTM(num_scales=4)], ids=["dsm", "ctm"])
def test_microbatch_size_does_not_matter(objective, microbatch):
    run = tiny.trainer(objective)
    expected, whole = gradients(run, None)
    numbers, split = gradients(run, microbatch)
    torch.testing.assert_close(numbers.packed(), expected.packed(), rtol=1e-5, atol=1e-6)
    for name, value in whole.items():
        torch.testing.assert_close(split[name], value, rtol=1e-5, atol=1e-6)


def test_gradient_is_the_weighted_sum_of_the_terms():
    run = tiny.trainer()
    numbers, found = gradients(run, 4)
    batch = run._feed(0, 0.0)
    run.objective.prepare(batch, run.models)
    weights = dict(run.student.named_parameters())
    terms = [
        torch.autograd.grad(run.objective.loss(t, batch, run.models).mean(), weights.values())
        for t in ("ctm", "dsm")
    ]
    last = list(weights).index("net.last_layer.weight")
    adaptive = terms[0][last].norm() / (terms[1][last].norm() + 1e-4)
    torch.testing.assert_close(numbers.weights[1], adaptive, rtol=1e-5, atol=0)
    assert adaptive != 1
    for name, first, second in zip(weights, *terms):
        torch.testing.assert_close(found[name], first + adaptive * second, rtol=1e-4, atol=1e-6)
    squares = sum(float(value.double().square().sum()) for value in found.values())
    assert float(numbers.total) == pytest.approx(squares**0.5, rel=1e-5)


def test_the_cap_of_the_adaptive_weight_holds():
    run = tiny.trainer(CTM(num_scales=4, adaptive_cap=0.125))
    numbers, _ = gradients(run, None)
    assert numbers.weights.tolist() == [1.0, 0.125]


def test_loss_scale_cancels():
    run = tiny.trainer()
    expected, plain = gradients(run, 4)
    numbers, scaled = gradients(run, 4, scale=1024.0)
    torch.testing.assert_close(numbers.packed(), expected.packed(), rtol=1e-5, atol=1e-6)
    for name, value in plain.items():
        torch.testing.assert_close(scaled[name] / 1024, value, rtol=1e-5, atol=1e-7)


def test_dropout_depends_on_the_step_and_not_on_the_past():
    run = tiny.trainer(dropout=0.5)
    _, first = gradients(run, 4)
    torch.rand(7)
    state = torch.get_rng_state()
    _, again = gradients(run, 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    _, other = gradients(run, 4, step=1)
    assert not torch.equal(first["net.last_layer.weight"], other["net.last_layer.weight"])


def test_dropout_differs_between_microbatches_and_terms(monkeypatch):
    seeds = []
    original = module.shared_dropout

    def recording(device, seed):
        seeds.append(seed)
        return original(device, seed)

    monkeypatch.setattr(module, "shared_dropout", recording)
    gradients(tiny.trainer(), 2)
    assert len(seeds) == len(set(seeds)) == 1 + 2 * 4


def test_weights_that_no_term_uses_stay_untouched():
    student = tiny.denoiser()
    student.net.unused = torch.nn.Linear(2, 2)
    run = tiny.trainer(student=student, steps=2)
    before = student.net.unused.weight.clone()
    run.fit()
    assert torch.equal(student.net.unused.weight, before)


def test_a_scalar_loss_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Mean(DSM):
        def loss(self, *arguments, **options):
            return super().loss(*arguments, **options).mean()

    with pytest.raises(ValueError, match="one value per image"):
        tiny.trainer(Mean()).fit()


def test_adaptive_weights_need_a_trained_last_layer():
    student = tiny.denoiser()
    student.net.last_layer.requires_grad_(False)
    with pytest.raises(ValueError, match="last layer"):
        tiny.trainer(student=student).fit()
    assert Balance()(torch.tensor(1.0), torch.tensor(0.0)) == 1e4
