"""One capture: streams, random numbers, lifetimes, failures."""

import gc
import weakref

import pytest
import torch

from ctm_fast.inference.graphs import GraphError, GraphPool

from .fake_cuda import FakeCuda, both, reads


@both
def test_a_whole_training_step(device: str) -> None:
    weight = torch.ones(3, device=device, requires_grad=True)
    weight.grad = torch.zeros_like(weight)

    def function(x: torch.Tensor) -> torch.Tensor:
        weight.grad.zero_()
        loss = (weight * x).square().sum()
        loss.backward()
        return loss.detach()

    pool = GraphPool()
    for i in (1.0, 2.0):
        x = torch.full((3,), i, device=device, requires_grad=True)
        assert pool.run("k", function, x) == 3 * i * i
        assert weight.grad.eq(2 * i * i).all() and x.grad is None


def test_everything_a_graph_uses_stays(fake: FakeCuda) -> None:
    class Owner:
        pass

    pool, x = GraphPool(), torch.ones(2)
    owner = Owner()
    owner.weight = torch.full((2,), 5.0)
    gone = []

    def function(x: torch.Tensor, owner: Owner = owner) -> torch.Tensor:
        return x * owner.weight

    weakref.finalize(owner, gone.append, 1)
    pool.run("k", function, x)
    del owner, function
    gc.collect()
    assert not gone
    pool.clear()
    gc.collect()
    assert gone


def test_warm_up_runs_on_the_capture_s_stream_and_waits_both_ways(fake: FakeCuda) -> None:
    streams, collecting = [], []

    def function(x: torch.Tensor) -> torch.Tensor:
        streams.append(fake.stream)
        collecting.append(gc.isenabled())
        return x + 1

    GraphPool(warmup=2).run("k", function, torch.ones(1))
    assert len(set(streams)) == 1 and streams[0] is not fake.main
    assert collecting == [True, True, False] and gc.isenabled()
    assert streams[0].waited == [fake.main] and fake.main.waited == [streams[0]]
    assert fake.stream is fake.main


def test_an_error_says_what_came_first_and_brings_the_stream_back(fake: FakeCuda) -> None:
    with pytest.raises(GraphError, match="not permitted when stream is capturing") as caught:
        GraphPool().run("reader", reads, torch.ones(2))
    assert "previous error" in str(caught.value.__cause__.__cause__)
    assert fake.stream is fake.main and fake.revived == 1


@both
def test_random_numbers_are_those_of_eager_calls(device: str) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn_like(x)

    x = torch.zeros(1000, device=device)
    with torch.random.fork_rng(range(torch.cuda.device_count()) if device == "cuda" else []):
        torch.manual_seed(5)
        eager = [function(x) for _ in range(3)]
        torch.manual_seed(5)
        pool = GraphPool()
        for expected in eager:
            assert torch.equal(pool.run("k", function, x), expected)


@pytest.mark.gpu
def test_generators_of_its_own() -> None:
    generator = torch.Generator("cuda").manual_seed(3)
    twin = torch.Generator("cuda").manual_seed(3)
    pool, x = GraphPool(generators=[generator]), torch.zeros(100, device="cuda")
    for _ in range(3):
        drawn = pool.run("k", lambda x: x + torch.randn(100, device="cuda", generator=generator), x)
        assert torch.equal(drawn, torch.randn(100, device="cuda", generator=twin))


def test_generators_are_registered_and_kept(fake: FakeCuda) -> None:
    generator = torch.Generator().manual_seed(3)
    pool = GraphPool(generators=[generator])
    before = generator.get_state()
    seen = []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.randn(1, generator=generator).item())
        return x + 1

    pool.run("k", function, torch.ones(1))
    assert fake.captured[0].registered == [generator]
    assert seen[0] != seen[1] and seen[2] == seen[0], "warm-up must not use up numbers"
    assert not torch.equal(before, generator.get_state())


@pytest.mark.gpu
def test_replays_never_wait_for_the_gpu() -> None:
    pool, x = GraphPool(), torch.ones(64, 64, device="cuda")
    layer = torch.nn.Linear(64, 64, device="cuda")
    with torch.no_grad():
        expected = layer(x).relu()
        pool.run("k", lambda x: layer(x).relu(), x)
        torch.cuda.set_sync_debug_mode("error")
        try:
            result = pool.run("k", lambda x: layer(x).relu(), x)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(result, expected)


@pytest.mark.gpu
def test_memory_of_many_graphs_is_that_of_one() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        for _ in range(4):
            x = (x.repeat(8, 1) + 1)[: len(x)]
        return x.sum()

    pool, x = GraphPool(8), torch.ones(2**20, 4, device="cuda")
    pool.run(0, function, x)
    one = torch.cuda.memory_reserved()
    for key in range(1, 8):
        pool.run(key, function, x)
    assert torch.cuda.memory_reserved() < one + 8 * x.nbytes + 2**26
