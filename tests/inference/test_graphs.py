"""The graph pool: bookkeeping on a stand-in for CUDA, and real captures where there is a GPU."""

import copy
import gc
import logging
import pickle
import threading

import pytest
import torch

from ctm_fast.inference import TeacherSolve, freeze, graphs
from ctm_fast.inference.graphs import GraphError, GraphPool
from ctm_fast.losses import CTM, DSM
from ctm_fast.sigmas import karras_sigmas
from tests.sampler.worlds import unet_model
from tests.trainer import tiny
from tests.trainer.test_captured import steps

from .fake_cuda import Counted, FakeCuda, both, reads


def test_on_a_cpu_it_just_calls() -> None:
    pool, function, x = GraphPool(), Counted(), torch.arange(3.0)
    assert torch.equal(pool.run("k", function, x), 2 * x + 1)
    pool.run("k", function, x)
    assert function.calls == 2 and len(pool) == 0 and pool.stats.captures == 0


@both
def test_captured_once_and_replayed_with_new_values(device: str) -> None:
    pool, function = GraphPool(warmup=3), Counted()
    for i in range(4):
        x = torch.full((5,), float(i), device=device)
        result = pool.run("k", function, x)
        assert torch.equal(result, 2 * x + 1)
        assert torch.equal(x, torch.full_like(x, i)), "an input was written to"
    assert function.calls == 3 + 1
    assert (pool.stats.captures, pool.stats.replays, len(pool)) == (1, 4, 1)


@both
def test_results_are_buffers_of_the_graph(device: str) -> None:
    pool, ones = GraphPool(), torch.ones(3, device=device)
    first = pool.run("k", Counted(), ones)
    second = pool.run("k", Counted(), 2 * ones)
    assert first is second and second[0] == 5


@both
def test_shape_dtype_and_memory_order_tell_graphs_apart(device: str) -> None:
    pool, image = GraphPool(), torch.randn(2, 3, 4, 5, device=device)
    last = image.contiguous(memory_format=torch.channels_last)
    for x in (image, last, image.double(), image[:1]):
        result = pool.run("k", Counted(), x)
        torch.testing.assert_close(result, 2 * x + 1)
        assert result.stride() == (2 * x + 1).stride()
    assert len(pool) == 4
    # A piece of something larger is copied into memory of its own, wherever it came from.
    wide, wider = torch.randn(2, 6, device=device), torch.randn(2, 9, device=device)
    for piece in (wide[:, :4], wider[:, 2:6]):
        torch.testing.assert_close(pool.run("k", Counted(), piece), 2 * piece + 1)
    one = torch.ones((), device=device)
    torch.testing.assert_close(pool.run("k", Counted(), one.expand(2, 4)), one.expand(2, 4) * 3)
    assert len(pool) == 5
    with torch.autocast(device, torch.bfloat16):
        pool.run("k", Counted(), image)
    with torch.inference_mode():
        pool.run("k", Counted(), image)
    assert len(pool) == 7


@both
def test_inputs_may_be_missing_and_results_of_any_structure(device: str) -> None:
    pool = GraphPool()

    def function(x, label, noise):
        return {"x": x if noise is None else x + noise, "pair": (x * 2, 7)}

    x = torch.ones(2, device=device)
    alone = pool.run("k", function, x, None, None)
    assert torch.equal(alone["x"], x) and alone["pair"][1] == 7
    both_given = pool.run("k", function, x, None, 3 * x)
    assert torch.equal(both_given["x"], 4 * x) and len(pool) == 2


@both
def test_functions_that_write_into_memory_of_their_own(device: str) -> None:
    pool, state = GraphPool(), torch.zeros(4, device=device)

    def function(x: torch.Tensor) -> None:
        state.copy_(x * x)

    for i in (2.0, 3.0):
        assert pool.run("k", function, torch.full((4,), i, device=device)) is None
        assert state.eq(i * i).all()


@both
def test_the_least_recently_used_graph_leaves(device: str) -> None:
    pool, function, x = GraphPool(2), Counted(), torch.ones(2, device=device)
    for key in ("a", "b", "a", "c", "a"):
        assert pool.run(key, function, x)[0] == 3
    assert (pool.stats.captures, pool.stats.evictions, len(pool)) == (3, 1, 2)
    pool.run("b", function, x)
    assert (pool.stats.captures, pool.stats.evictions, len(pool)) == (4, 2, 2)
    pool.clear()
    assert len(pool) == 0
    assert pool.run("b", function, x)[0] == 3 and pool.stats.captures == 5


@both
def test_one_graph_at_a_time(device: str) -> None:
    pool, function = GraphPool(1), Counted()
    for size in (1, 2, 3, 2):
        x = torch.ones(size, device=device)
        assert torch.equal(pool.run("k", function, x), 3 * x)
    assert pool.stats.evictions == 3


def test_evicted_graphs_are_freed(fake: FakeCuda) -> None:
    pool, x = GraphPool(2), torch.ones(2)
    for key in range(4):
        pool.run(key, Counted(), x)
    assert [graph.tape is None for graph in fake.captured] == [True, True, False, False]
    assert len({graph.pool for graph in fake.captured}) == 1, "graphs share one memory pool"
    assert fake.synchronized >= 2, "an evicted graph may still be running"
    pool.clear()
    assert all(graph.tape is None for graph in fake.captured)
    pool.run(0, Counted(), x)
    assert len(fake.pools) == 2, "the pool that ended with its last graph was named again"


def test_inside_another_capture_it_is_part_of_it(fake: FakeCuda) -> None:
    pool = GraphPool()

    def outer(x: torch.Tensor) -> torch.Tensor:
        return pool.run("inner", Counted(), x) * 10

    outers = GraphPool(warmup=1)
    assert outers.run("outer", outer, torch.ones(2))[0] == 30
    assert outers.run("outer", outer, 2 * torch.ones(2))[0] == 50
    assert len(outers) == 1 and len(fake.captured) == 2 and fake.captured[1].replays == 2


@both
def test_what_cannot_be_captured_is_an_error_that_says_why(device: str) -> None:
    pool, x = GraphPool(), torch.ones(2, device=device)
    with pytest.raises(GraphError, match=r"'reader'.*capturing.*fallback='eager'"):
        pool.run("reader", reads, x)
    assert len(pool) == 0 and gc.isenabled()
    # The device, its stream and its generator work as before.
    assert pool.run("k", Counted(), x)[0] == 3
    torch.rand(2, device=device)


@both
def test_or_runs_without_a_graph_which_is_logged_once(
    device: str, caplog: pytest.LogCaptureFixture
) -> None:
    pool = GraphPool(fallback="eager")
    with caplog.at_level(logging.WARNING, "ctm_fast"):
        for size in (2, 2, 3):
            for sign in (1, -1):
                x = torch.full((size,), float(sign), device=device)
                assert pool.run("reader", reads, x)[0] == (2 if sign > 0 else -3)
    (record,) = caplog.records
    assert "'reader'" in record.getMessage() and "capturing" in record.getMessage()
    assert pool.stats.captures == 0 and pool.stats.eager == 6
    assert pool.run("k", Counted(), torch.ones(2, device=device))[0] == 3


@both
def test_a_function_s_own_error_is_its_own(device: str) -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        raise KeyError("mine")

    for fallback in ("error", "eager"):
        pool = GraphPool(fallback=fallback)
        with pytest.raises(KeyError, match="mine"):
            pool.run("k", broken, torch.ones(2, device=device))
        assert len(pool) == 0


@pytest.mark.parametrize("solver", ["heun", "multistep"])
@pytest.mark.parametrize("label_dim", [0, 3])
def test_teacher_solves_are_the_same_in_graphs(
    fake: FakeCuda, monkeypatch: pytest.MonkeyPatch, solver: str, label_dim: int
) -> None:
    # Networks look at labels on a CPU only, and this one passes for a GPU.
    monkeypatch.setattr("ctm_fast.models.arguments._check_labels", lambda *args: None)
    model, sigmas = freeze(unet_model("denoiser", label_dim), torch.float32), karras_sigmas(18)
    pool, generator = GraphPool(), torch.Generator().manual_seed(0)
    eager = TeacherSolve(model, sigmas, slots=4, solver=solver)
    captured = TeacherSolve(model, sigmas, slots=4, solver=solver, pool=pool)
    for _ in range(3):
        start = torch.randint(17, (9,), generator=generator)
        steps = (torch.rand(9, generator=generator) * (18 - start)).long()
        noise = torch.randn(9, 2, 4, 4, generator=generator)
        x = noise * sigmas[start].float().reshape(-1, 1, 1, 1)
        labels = torch.randint(3, (9,), generator=generator) if label_dim else None
        expected = eager(x, start, steps, labels)
        torch.testing.assert_close(captured(x, start, steps, labels), expected)
    assert pool.stats.captures <= 4 < pool.stats.replays


@pytest.mark.parametrize("microbatch", [None, 4, 3])
@pytest.mark.parametrize("objective", [DSM(), CTM(num_scales=4)], ids=["dsm", "ctm"])
def test_training_steps_are_the_same_in_graphs(
    monkeypatch: pytest.MonkeyPatch, objective: DSM | CTM, microbatch: int | None
) -> None:
    # What the losses and the test's network look at on a CPU only.
    monkeypatch.setattr(CTM, "_ends", lambda self, batch: None)
    hot = torch.nn.functional
    monkeypatch.setattr(hot, "one_hot", lambda y, n: (y[:, None] == torch.arange(n)).long())
    expected = steps(tiny.trainer(objective, dropout=0.5), None, microbatch, (1.0, 8.0, 1.0))
    FakeCuda(monkeypatch)
    pool = GraphPool()
    found = steps(tiny.trainer(objective, dropout=0.5), pool, microbatch, (1.0, 8.0, 1.0))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert 0 < pool.stats.captures < pool.stats.replays


def test_threads_exclude_each_other(fake: FakeCuda) -> None:
    pool, running, overlaps = GraphPool(), [], []

    def function(x: torch.Tensor) -> torch.Tensor:
        overlaps.append(len(running))
        running.append(1)
        threading.Event().wait(0.01)
        running.pop()
        return x + 1

    def work(key: int) -> None:
        pool.run(key, function, torch.ones(1))

    threads = [threading.Thread(target=work, args=(key,)) for key in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pool) == 3 and set(overlaps) == {0}


def test_copies_and_pickles_are_empty(fake: FakeCuda) -> None:
    pool = GraphPool(3, fallback="eager", warmup=1)
    pool.run("k", Counted(), torch.ones(1))
    for twin in (copy.deepcopy(pool), copy.copy(pool), pickle.loads(pickle.dumps(pool))):
        assert (len(twin), twin.max_graphs, twin.fallback, twin.warmup) == (0, 3, "eager", 1)
    assert "captures=1" in repr(pool) and "GraphPool(3, fallback='eager')" in repr(pool)


def test_wrong_use() -> None:
    for options, message in [
        (dict(max_graphs=0), "max_graphs"),
        (dict(warmup=0), "warmup"),
        (dict(fallback="quiet"), "'quiet'.*'eager'"),
    ]:
        with pytest.raises(ValueError, match=message):
            GraphPool(**options)
    with pytest.raises(ValueError, match=r"'k'.*not there"):
        GraphPool().run("k", Counted())
    with pytest.raises(ValueError, match=r"\['cpu', 'meta'\]"):
        GraphPool().run("k", Counted(), torch.ones(1), torch.ones(1, device="meta"))
    assert not graphs.on_gpu(torch.device("cpu")) and graphs.on_gpu(torch.device("cuda", 0))
