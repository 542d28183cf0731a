"""A small stand-in for CUDA graphs that works on CPU tensors, for tests without a GPU.

Like the real thing: a capture computes nothing, it writes down what to compute and on which memory;
a replay computes it again on the same memory and runs no Python; reading a value during a capture
is an error that also breaks the end of the capture, which then leaves the side stream current;
memory pools end with their last graph. Unlike it, all streams are one.
"""

from __future__ import annotations

import contextlib
import gc
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ctm_fast.inference import capture, graphs

READING = ("_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero")


def storage(tensor: torch.Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (NotImplementedError, RuntimeError):  # opaque: oneDNN's packed weights
        return id(tensor)


def tensors(*values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


class Stream:
    def __init__(self, device: Any = None) -> None:
        self.waited: list[Stream] = []

    def wait_stream(self, other: Stream) -> None:
        self.waited.append(other)


class FakeGraph(TorchDispatchMode):
    """Writes down the operations of a capture."""

    cuda: FakeCuda

    def __init__(self) -> None:
        super().__init__()
        self.tape: list[tuple[Any, tuple, dict, list[tuple[int, torch.Tensor]]]] = []
        self.known: dict[int, torch.Tensor] = {}  # memory from before the capture
        self.new: dict[int, torch.Tensor] = {}
        self.before: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.registered: list[torch.Generator] = []
        self.replays, self.pool, self.failed = 0, None, False

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.registered.append(generator)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = tensors(args, kwargs)
        on_device = any(storage(t) in self.cuda.memory for t in given)
        if on_device and func.overloadpacket.__name__ in READING:
            self.failed = True
            raise RuntimeError(
                "CUDA error: operation not permitted when stream is capturing\nFor debugging ..."
            )
        for t in given:
            if storage(t) not in self.new:
                self.known.setdefault(storage(t), t)
        for argument, value in zip(func._schema.arguments, args):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for t in tensors(value):
                    if storage(t) in self.known:
                        self.before.append((t, t.clone()))
        results = func(*args, **kwargs)
        made = []
        for i, t in enumerate(tensors(results)):
            if storage(t) not in self.known and storage(t) not in self.new:
                self.new[storage(t)] = t
                made.append((i, t))
            if on_device:
                self.cuda.memory[storage(t)] = t
        self.tape.append((func, args, kwargs, made))
        return results

    def end(self) -> None:
        with torch.inference_mode():
            for t, values in reversed(self.before):
                t.copy_(values)
            for t in self.new.values():
                if t.is_floating_point() and not t.is_mkldnn:
                    t.fill_(float("nan"))
        if self.failed:
            raise RuntimeError(
                "CUDA error: operation failed due to a previous error during capture"
            )

    def replay(self) -> None:
        assert self.tape is not None, "this graph was freed"
        self.replays += 1
        with torch.inference_mode():
            for func, args, kwargs, made in self.tape:
                results = tensors(func(*args, **kwargs))
                for i, t in made:
                    if results[i] is not t:
                        t.copy_(results[i])

    def reset(self) -> None:
        self.tape = self.known = self.new = self.before = None
        self.cuda.pools[self.pool] -= 1


class FakeCapture:
    def __init__(self, graph: FakeGraph, *, pool, stream, capture_error_mode) -> None:
        self.graph, self.stream, self.mode = graph, stream, capture_error_mode
        graph.pool = pool

    def __enter__(self) -> None:
        cuda = self.graph.cuda
        assert self.stream in cuda.warmed, "kernels must run on this stream before the capture"
        assert not gc.isenabled() and self.mode == "thread_local"
        assert cuda.pools.get(self.graph.pool) != 0, "a memory pool ended with its last graph"
        cuda.pools[self.graph.pool] = cuda.pools.get(self.graph.pool, 0) + 1
        self.back, cuda.stream = cuda.stream, self.stream
        cuda.capturing, cuda.captured = True, [*cuda.captured, self.graph]
        self.random = torch.get_rng_state()
        self.graph.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.graph.__exit__(*error)
        self.graph.cuda.capturing = False
        torch.set_rng_state(self.random)
        self.graph.end()
        self.graph.cuda.stream = self.back


class FakeCuda:
    """The state of the stand-in: streams, memory pools and graphs."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.memory: dict[int, torch.Tensor] = {}  # what lies "on the device"
        self.pools: dict[Any, int] = {}
        self.captured: list[FakeGraph] = []
        self.capturing, self.stream, self.warmed = False, Stream(), set()
        self.main, self.synchronized, self.revived = self.stream, 0, 0
        own = capture._own

        def noted(x: torch.Tensor) -> torch.Tensor:
            copy = own(x)
            self.memory[storage(copy)] = copy
            return copy

        def handle() -> Any:
            return len(self.pools), id(self)

        def synchronize(device: Any = None) -> None:
            self.synchronized += 1

        patch.setattr(capture, "_own", noted)
        patch.setattr(graphs, "on_gpu", lambda device: device.type == "cpu")
        patch.setattr(capture, "_revive_generator", self.revive)
        graph = type("FakeGraph", (FakeGraph,), {"cuda": self})
        for name, value in {
            "CUDAGraph": graph,
            "graph": FakeCapture,
            "Stream": Stream,
            "stream": self.on,
            "current_stream": lambda device=None: self.stream,
            "device": lambda device: contextlib.nullcontext(),
            "synchronize": synchronize,
            "is_current_stream_capturing": lambda: self.capturing,
            "graph_pool_handle": handle,
            "get_rng_state": lambda device: torch.get_rng_state(),
            "set_rng_state": lambda state, device: torch.set_rng_state(state),
        }.items():
            patch.setattr(torch.cuda, name, value)

    @contextlib.contextmanager
    def on(self, stream: Stream):
        before, self.stream = self.stream, stream
        self.warmed.add(stream)
        try:
            yield
        finally:
            self.stream = before

    def revive(self, device: Any, state: torch.Tensor) -> None:
        self.revived += 1


both = pytest.mark.parametrize(
    "device", ["fake", pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True
)
"""For tests that take `device` of conftest.py."""


class Counted:
    """x -> 2 x + 1 that counts how often Python runs it."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return 2 * x + 1


def reads(x: torch.Tensor) -> torch.Tensor:
    """Looks at a value, which no capture can do."""
    return x * (2 if x.sum().item() > 0 else 3)
