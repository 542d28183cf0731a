"""Captured microbatches: bookkeeping with a stand-in for the graphs, gradients, refusals."""

from __future__ import annotations

import types
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from ctm_fast.losses import CTM, DSM
from ctm_fast.models import shared_dropout
from ctm_fast.trainer import gradients as module
from ctm_fast.trainer.captured import graph_pool
from ctm_fast.trainer.distributed import World
from ctm_fast.trainer.gradients import StepGradients
from tests.trainer import tiny


class FakePool:
    """Runs like a pool of CUDA graphs: trials, static inputs, replays of the first function."""

    def __init__(self, warmup: int = 2) -> None:
        self.stats = types.SimpleNamespace(captures=0, replays=0)
        self.warmup = warmup
        self.graphs: dict[Hashable, tuple[Callable[..., Any], list[Tensor | None]]] = {}

    def run(self, key: Hashable, function: Callable[..., Any], *inputs: Tensor | None) -> Any:
        assert all(x is None or isinstance(x, Tensor) for x in inputs)
        full = (key, *(None if x is None else (x.shape, x.dtype) for x in inputs))
        if full not in self.graphs:
            self.graphs[full] = function, [None if x is None else x.clone() for x in inputs]
            for _ in range(self.warmup):
                function(*self.graphs[full][1])
            self.stats.captures += 1
        function, own = self.graphs[full]
        for mine, given in zip(own, inputs, strict=True):
            if mine is not None:
                mine.copy_(given)
        self.stats.replays += 1
        return function(*own)


def steps(run: Any, pool: Any, microbatch: int | None, scales: tuple[float, ...] = (1.0, 1.0)):
    """Numbers and gradients of two steps."""
    compute = StepGradients(
        run.objective, run.models, World(), batch_size=8, microbatch=microbatch, seed=0, pool=pool
    )
    found = []
    for step, scale in enumerate(scales):
        batch = run._feed(step, 0.0)
        compute.prepare(step, batch, 0.0)
        numbers = compute(step, batch, 0.0, scale)
        found.append((numbers.packed(), [p.grad.clone() for p in run.student.parameters()]))
    return found


@pytest.mark.parametrize("microbatch", [None, 4, 3])
@pytest.mark.parametrize(
    "objective", [DSM(), CTM(num_scales=4), CTM(num_scales=4, denoising_frequency=0.5)]
)
def test_gradients_are_those_of_the_eager_step(objective, microbatch):
    eager, captured = tiny.trainer(objective, dropout=0.5), tiny.trainer(objective, dropout=0.5)
    pool = FakePool()
    expected = steps(eager, None, microbatch, (1.0, 8.0, 1.0))
    found = steps(captured, pool, microbatch, (1.0, 8.0, 1.0))
    for (numbers, gradients), (own, theirs) in zip(found, expected, strict=True):
        torch.testing.assert_close(numbers, own, rtol=1e-5, atol=1e-6)
        for ours, other in zip(gradients, theirs, strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-6)
    # Microbatches whose estimates have all arrived have their own graph.
    most = (2 if microbatch == 3 else 1) * (2 * len(objective.terms) - 1)
    assert pool.stats.captures == len(pool.graphs) <= most


def test_a_graph_writes_to_the_same_memory_at_every_step():
    run, pool = tiny.trainer(), FakePool()
    compute = StepGradients(
        run.objective, run.models, World(), batch_size=8, microbatch=4, seed=0, pool=pool
    )
    places = []
    for step in range(2):
        batch = run._feed(step, 0.0)
        compute.prepare(step, batch, 0.0)
        compute(step, batch, 0.0)
        places.append([g.data_ptr() for g in compute._captured._gradients])
        # What the optimizer gets is not what the next replay overwrites.
        kept = [p.grad.clone() for p in run.student.parameters()]
        compute._captured.begin()
        for p, gradient in zip(run.student.parameters(), kept, strict=True):
            assert p.grad.abs().max() == 0
            assert gradient.abs().max() > 0
    assert places[0] == places[1]


def test_dropout_is_seeded_before_every_run(monkeypatch):
    seeds = []
    monkeypatch.setattr(
        module, "shared_dropout", lambda d, s: seeds.append(s) or shared_dropout(d, s)
    )
    pool = FakePool()
    steps(tiny.trainer(dropout=0.5), pool, 4)
    # Per step: prepare, two terms of two microbatches; the first one of each graph once more.
    assert len(seeds) == 2 * 5 + pool.stats.captures
    assert len(set(seeds)) == 2 * 5


def counted(rows, module, args, output):
    rows.append(len(output))


def test_a_microbatch_whose_estimates_have_arrived_spares_the_target():
    objective = CTM(num_scales=4)
    run, pool = tiny.trainer(objective), FakePool()
    compute = StepGradients(
        objective, run.models, World(), batch_size=8, microbatch=4, seed=0, pool=pool
    )
    images = []
    for s_index in ([3, 2, 3, 3, 1, 3, 2, 3], [3] * 8, [3, 3, 2, 2, 2, 2, 2, 3]):
        batch = run._feed(0, 0.0)
        batch.draw["t_index"] = torch.zeros(8, dtype=torch.int64)
        batch.draw["num_steps"] = 1
        batch.draw["u_index"] = torch.ones(8, dtype=torch.int64)
        batch.draw["s_index"] = torch.tensor(s_index)
        batch.host = {name: batch.draw[name].clone() for name in ("u_index", "s_index")}
        compute.prepare(0, batch, 0.0)
        rows: list[int] = []
        count = partial(counted, rows)
        hook = run.models.target.net.register_forward_hook(count)
        expected = [batch.draw["s_index"][a : a + 4].ne(3).sum().item() for a in (0, 4)]
        compute(0, batch, 0.0)
        hook.remove()
        images.append((expected, set(rows)))
    assert [expected for expected, _ in images] == [[3, 0], [0, 0], [4, 1]]
    assert images[1][1] == set()
    assert len([key for key in pool.graphs if key[0][0] == "ctm"]) == 2


def test_a_pool_that_drops_graphs_is_noticed():
    pool = FakePool()
    run = tiny.trainer()
    compute = StepGradients(
        run.objective, run.models, World(), batch_size=8, microbatch=4, seed=0, pool=pool
    )
    batch = run._feed(0, 0.0)
    compute.prepare(0, batch, 0.0)
    compute(0, batch, 0.0)
    pool.graphs.clear()
    with pytest.raises(RuntimeError, match="too small"):
        compute(0, batch, 0.0)


def test_refusals():
    run = tiny.trainer()
    options = dict(batch_size=8, microbatch=4, seed=0, pool=FakePool())
    with pytest.raises(ValueError, match="capture=True works in one process, not among 2"):
        StepGradients(run.objective, run.models, World(0, 2), **options)

    class Progressing(DSM):
        capturable = False

    with pytest.raises(ValueError, match="Progressing does not say that its loss can be captured"):
        StepGradients(Progressing(), run.models, World(), **options)


def test_nothing_is_captured_on_a_cpu():
    assert graph_pool(torch.device("cpu")) is None
    plain, captured = tiny.trainer(steps=2), tiny.trainer(steps=2, capture=True)
    plain.fit(), captured.fit()
    for name, value in tiny.weights(plain.student).items():
        assert torch.equal(tiny.weights(captured.student)[name], value)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("objective", [CTM(num_scales=4), DSM()], ids=["ctm", "dsm"])
def test_captured_training_on_a_gpu(precision, objective):
    # The target's masks depend on how many images pass through it, which a graph does not choose.
    dropout = 0.5 if isinstance(objective, DSM) else 0.0
    options = dict(steps=4, microbatch=3, precision=precision, dropout=dropout, device="cuda")
    plain = tiny.trainer(objective, **options)
    captured = tiny.trainer(objective, **options, capture=True)
    plain.fit(), captured.fit()
    pool = captured._gradients._captured.pool
    assert 2 * len(objective.terms) <= pool.stats.captures <= 2 * (2 * len(objective.terms) - 1)
    assert pool.stats.evictions == pool.stats.eager == 0
    tolerance = 1e-4 if precision == "fp32" else 2e-2
    for name, value in tiny.weights(plain.student).items():
        other = tiny.weights(captured.student)[name]
        torch.testing.assert_close(other, value, rtol=tolerance, atol=tolerance)
