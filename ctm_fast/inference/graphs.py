"""`GraphPool`: functions of tensors as CUDA graphs, captured once and replayed."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .capture import CaptureError, Graph, capture

LOG = logging.getLogger("ctm_fast")


class GraphError(RuntimeError):
    """A function cannot be captured; the message names its key and the cause."""


@dataclass
class GraphStats:
    """What a pool has done so far."""

    captures: int = 0
    replays: int = 0
    evictions: int = 0  # graphs that made room for others
    eager: int = 0  # calls without a graph on a GPU


class GraphPool:
    """CUDA graphs by key and by the shapes of the inputs; on a CPU `run` calls the function.

    All graphs of a device share one memory pool and run on the stream that is current at the call;
    use one stream. The least recently used graph leaves when there are too many. A function runs
    `warmup` times on a side stream before it is captured, so calling it twice must do no harm: it
    writes results, it does not add to them. What it closes over has to stay where it is in memory.

    Random numbers: the default generator works as in eager mode, every replay draws new numbers;
    generators of its own have to be named in `generators`.

    Threads: calls exclude each other, but results lie in buffers of the pool, so another thread's
    call of the same key would overwrite them; give every thread its own pool. Copies and pickles
    of a pool are empty.

    Args:
        max_graphs: >= 1.
        fallback: where a function cannot be captured: "error" raises GraphError, "eager" calls it
            without a graph, now and later, and logs that once per key.
        warmup: runs before a capture, >= 1: kernels are compiled and chosen in them.
        generators: CUDA generators, besides the default one, that functions draw from.

    Raises:
        ValueError: for numbers below these, or another fallback.
    """

    def __init__(
        self,
        max_graphs: int = 16,
        *,
        fallback: Literal["error", "eager"] = "error",
        warmup: int = 2,
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        if max_graphs < 1 or warmup < 1:
            raise ValueError(
                f"max_graphs and warmup must be at least 1, got {max_graphs} and {warmup}"
            )
        if fallback not in ("error", "eager"):
            raise ValueError(f"fallback is {fallback!r}; choose 'error' or 'eager'")
        self.max_graphs, self.fallback, self.warmup = max_graphs, fallback, warmup
        self.generators = tuple(generators)
        self.stats = GraphStats()
        self._graphs: OrderedDict[Hashable, Graph] = OrderedDict()
        self._refused: set[Hashable] = set()
        self._logged: set[Hashable] = set()
        self._streams: dict[torch.device, Any] = {}
        self._memory: dict[torch.device, Any] = {}
        self._lock = threading.RLock()

    def run(self, key: Hashable, function: Callable[..., Any], *inputs: Tensor | None) -> Any:
        """function(*inputs), by a graph if the inputs are on a GPU.

        The first call of a key with such shapes, dtypes and memory orders captures; later ones
        copy the inputs into the graph's own and replay it. Inside another capture, and on a CPU,
        the function is simply called.

        Args:
            key: tells functions apart; the same key has to mean the same work on the same memory.
            function: called with the graph's own copies of the inputs; no gradient flows back to
                the inputs.
            inputs: tensors on one device, at least one, or None.

        Returns:
            result: what the function returned at the capture, with the values of this call. These
                are the graph's own buffers: valid until the next run of the same key.

        Raises:
            ValueError: no input is a tensor, or they lie on different devices.
            GraphError: the function cannot be captured, and fallback is "error".
        """
        device = _device_of(key, inputs)
        if not on_gpu(device) or torch.cuda.is_current_stream_capturing():
            return function(*inputs)
        full = (key, device, _modes(device), *map(_layout, inputs))
        with self._lock, torch.cuda.device(device):
            graph = self._graphs.get(full)
            if graph is None and full not in self._refused:
                graph = self._captured(full, function, inputs, device)
            if graph is not None:
                self._graphs.move_to_end(full)
                self.stats.replays += 1
                return graph.replay(inputs)
            self.stats.eager += 1
        return function(*inputs)

    def _captured(
        self,
        full: tuple[Any, ...],
        function: Callable[..., Any],
        inputs: Sequence[Tensor | None],
        device: torch.device,
    ) -> Graph | None:
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        while len(self._graphs) >= self.max_graphs:
            self._evict(next(iter(self._graphs)))
        try:
            graph = capture(
                function,
                inputs,
                self._streams[device],
                self._memory_of(device),
                self.generators,
                self.warmup,
            )
        except CaptureError as error:
            self._refuse(full, error)
            return None
        self.stats.captures += 1
        self._graphs[full] = graph
        return graph

    def _refuse(self, full: tuple[Any, ...], error: CaptureError) -> None:
        shown = repr(full[0])
        shown = shown if len(shown) <= 200 else shown[:200] + "..."
        words = f"{shown} cannot be captured as a CUDA graph: {error}"
        if self.fallback == "error":
            raise GraphError(f"{words}; GraphPool(fallback='eager') runs it without one") from error
        self._refused.add(full)
        if full[0] not in self._logged:
            self._logged.add(full[0])
            LOG.warning("%s; it runs without one", words)

    def _memory_of(self, device: torch.device) -> Any:
        # A memory pool ends with its last graph and must not be named again.
        if not any(full[1] == device for full in self._graphs):  # type: ignore[index]
            self._memory[device] = torch.cuda.graph_pool_handle()
        return self._memory[device]

    def _evict(self, full: Hashable) -> None:
        graph = self._graphs.pop(full)
        torch.cuda.synchronize(full[1])  # type: ignore[index]
        graph.graph.reset()
        self.stats.evictions += 1

    def clear(self) -> None:
        """Free all graphs and their memory, and forget what could not be captured."""
        with self._lock:
            for device in {full[1] for full in self._graphs}:  # type: ignore[index]
                torch.cuda.synchronize(device)
            for graph in self._graphs.values():
                graph.graph.reset()
            self._graphs.clear()
            self._refused.clear()

    def __len__(self) -> int:
        return len(self._graphs)

    def __repr__(self) -> str:
        return f"GraphPool({self.max_graphs}, fallback={self.fallback!r}): {self.stats}"

    def __reduce__(self) -> Any:
        options = {"fallback": self.fallback, "warmup": self.warmup, "generators": self.generators}
        return _pool, (self.max_graphs, options)


def _pool(max_graphs: int, options: dict[str, Any]) -> GraphPool:
    return GraphPool(max_graphs, **options)


def _device_of(key: Hashable, inputs: Sequence[Tensor | None]) -> torch.device:
    devices = {x.device for x in inputs if x is not None}
    if len(devices) != 1:
        where = sorted(map(str, devices)) or "not there"
        raise ValueError(f"inputs of {key!r} are {where}; need tensors on one device")
    return devices.pop()


def on_gpu(device: torch.device) -> bool:
    """Whether calls with tensors there are captured."""
    return device.type == "cuda"


def _modes(device: torch.device) -> tuple[Any, ...]:
    """What of torch's state a capture freezes."""
    autocast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if autocast else None
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), dtype


def _layout(x: Tensor | None) -> tuple[Any, ...] | None:
    """Shape, dtype and memory order, which of a piece of a larger tensor is that of its copy."""
    if x is None:
        return None
    strides = x.stride() if x.is_contiguous() else torch.empty_like(x, device="meta").stride()
    return x.shape, strides, x.dtype
