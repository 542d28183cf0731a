"""`capture`: one call of a function as a CUDA graph."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class CaptureError(RuntimeError):
    """A capture failed; the message is what ended it."""


@dataclass
class Graph:
    """One captured call. It holds on to all that its kernels read and write."""

    graph: Any
    inputs: list[Tensor | None]
    outputs: Any
    function: Callable[..., Any]

    def replay(self, inputs: Sequence[Tensor | None]) -> Any:
        """Outputs for other values of the inputs."""
        with torch.inference_mode(False), torch.no_grad():
            for own, given in zip(self.inputs, inputs, strict=True):
                if own is not None and given is not None and own is not given:
                    own.copy_(given.detach(), non_blocking=True)
        self.graph.replay()
        return self.outputs


def capture(
    function: Callable[..., Any],
    inputs: Sequence[Tensor | None],
    stream: Any,
    memory: Any,
    generators: Sequence[torch.Generator] = (),
    warmup: int = 2,
) -> Graph:
    """A graph of function(*inputs) that reads copies of the inputs; it has not run yet.

    Args:
        function: runs `warmup` times and once more, in which its kernels are written down.
        inputs: tensors on one CUDA device, at least one, or None.
        stream: side stream for all of this; the same for all graphs that share memory.
        memory: handle of a memory pool.
        generators: CUDA generators that the function draws from besides the default one.
        warmup: runs before the capture, in which kernels are compiled and libraries start.

    Raises:
        CaptureError: the function ran, but cannot be captured.
    """
    device = next(x.device for x in inputs if x is not None)
    own = [None if x is None else _own(x) for x in inputs]
    with _random_state_kept(device, generators):
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(warmup):
                function(*own)
        torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    state = torch.cuda.get_rng_state(device)
    first: Exception | None = None
    try:
        with (
            _no_collection(),
            # Leaving a capture that failed does not bring back the current stream.
            torch.cuda.stream(torch.cuda.current_stream(device)),
            # Other threads (a data loader's, say) may use the GPU meanwhile.
            torch.cuda.graph(graph, pool=memory, stream=stream, capture_error_mode="thread_local"),
        ):
            try:
                outputs = function(*own)
            except Exception as error:
                first = error
                raise
    except Exception as error:
        _revive_generator(device, state)
        cause = first or error  # what ended the capture, not what that led to
        first_line = (str(cause).splitlines() or [""])[0]  # CUDA adds paragraphs of advice
        raise CaptureError(f"{type(cause).__name__}: {first_line}") from error
    return Graph(graph, own, outputs, function)


@contextlib.contextmanager
def _random_state_kept(
    device: torch.device, generators: Sequence[torch.Generator]
) -> Iterator[None]:
    """Warm-up draws what the first replay will draw again."""
    default = torch.cuda.get_rng_state(device)
    others = [generator.get_state() for generator in generators]
    try:
        yield
    finally:
        torch.cuda.set_rng_state(default, device)
        for generator, state in zip(generators, others, strict=True):
            generator.set_state(state)


def _own(x: Tensor) -> Tensor:
    """A copy of an input, in memory that stays."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.empty_like(x, requires_grad=False).copy_(x.detach())


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection: freeing CUDA objects would end a capture."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _revive_generator(device: torch.device, state: Tensor) -> None:
    """The default generator still belongs to a capture that failed; it gets a state of its own."""
    with contextlib.suppress(RuntimeError):  # not to hide why the capture failed
        generator = torch.Generator(device)
        generator.set_state(state)
        torch.cuda.default_generators[device.index].graphsafe_set_state(generator)
