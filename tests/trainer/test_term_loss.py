"""Terms as a module: one loss per image, and which weights a loss reaches."""

import dataclasses

import pytest
import torch

from ctm_fast.losses import CTM, DSM, SCM
from ctm_fast.trainer.term_loss import TermLoss, reached
from tests.trainer import tiny


def prepared(objective):
    run = tiny.trainer(objective)
    batch = run._feed(0, 0.0)
    objective.prepare(batch, run.models)
    return run, batch


def test_terms_apart_and_together():
    objective = CTM(num_scales=4)
    run, batch = prepared(objective)
    module = TermLoss(objective, run.models)
    together = module(None, batch, 0.0)
    assert len(together) == 2
    for term, loss in zip(objective.terms, together, strict=True):
        (apart,) = module(term, batch, 0.0)
        torch.testing.assert_close(loss, apart, rtol=1e-5, atol=1e-6)
    # Only the student is a part of the module.
    assert {id(p) for p in module.parameters()} == {id(p) for p in run.student.parameters()}


def test_a_companion_is_a_part():
    run, _ = prepared(SCM())
    module = TermLoss(run.objective, run.models)
    trained = [*run.student.parameters(), *run.models.companion.parameters()]
    assert {id(p) for p in module.parameters()} == {id(p) for p in trained}


def test_another_shape_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Mean(DSM):
        def loss(self, *arguments, **options):
            return super().loss(*arguments, **options).mean()

    run, batch = prepared(Mean())
    with pytest.raises(ValueError, match=r"term 'dsm' returned a loss of shape \(\)"):
        TermLoss(Mean(), run.models)("dsm", batch, 0.0)


def test_reached():
    a, b, c = (torch.ones(2, requires_grad=True) for _ in range(3))
    losses = [(a * 2).sum(), (a * b).sum()]
    assert reached(losses) == {id(a), id(b)}
    assert reached(losses[:1]) == {id(a)}
    assert id(c) not in reached(losses)
    assert reached([torch.zeros(())]) == set()
