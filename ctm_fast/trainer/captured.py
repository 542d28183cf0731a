"""Forward and backward of a microbatch as a CUDA graph, one for every term and microbatch size."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..losses.objective import Batch
from .distributed import World


class Pool(Protocol):
    """What is used of `ctm_fast.inference.graphs.GraphPool`."""

    stats: Any

    def run(self, key: Hashable, function: Callable[..., Any], *inputs: Tensor | None) -> Any:
        """function(*inputs), captured at the first call and replayed later."""
        ...


def graph_pool(device: torch.device) -> Pool | None:
    """The pool in which a trainer captures its microbatches; None where there are no graphs."""
    if device.type != "cuda":
        return None
    from ..inference.graphs import GraphPool

    pool: Pool = GraphPool()
    return pool


def check_capture(objective: Any, world: World) -> None:
    """Raise ValueError unless the steps of this run can be captured."""
    if world.size > 1:
        raise ValueError(
            f"capture=True works in one process, not among {world.size}: gradients are summed "
            "between processes during the backward pass, which a graph cannot hold"
        )
    if not getattr(objective, "capturable", False):
        raise ValueError(
            f"{type(objective).__name__} does not say that its loss can be captured "
            "(`capturable`); set capture=False"
        )


class CapturedTerms:
    """Runs a term's forward and backward through a graph pool.

    A graph writes to fixed memory, so `p.grad` and the sum of losses are buffers that are set to
    zero, never replaced. Whole numbers of the draw that all images share are left out (each value
    would need a graph of its own), others become tensors. Which images move is not known inside a
    graph, so all images of a microbatch pass through the target network unless none has to, and
    its dropout masks are others than without a graph.

    Args:
        module: `TermLoss`.
        parameters: trained weights.
        pool: where graphs are kept; it must hold four per term.
        settled: settled(term, batch), whether a microbatch spares work and has its own graph.
    """

    def __init__(
        self,
        module: nn.Module,
        parameters: Sequence[nn.Parameter],
        pool: Pool,
        settled: Callable[[str, Batch], bool] = lambda term, batch: False,
    ) -> None:
        self.module = module
        self.settled = settled
        self.parameters = list(parameters)
        self.pool = pool
        self.loss_sum = torch.zeros((), device=self.parameters[0].device)
        self._gradients = [torch.zeros_like(p) for p in self.parameters]
        self._functions: dict[Hashable, Callable[..., None]] = {}
        self._seen: set[Hashable] = set()

    def begin(self) -> None:
        """Zero gradients, in the same memory every time."""
        torch._foreach_zero_(self._gradients)
        for p, gradient in zip(self.parameters, self._gradients):
            p.grad = gradient
        self.loss_sum.zero_()

    def __call__(
        self,
        term: str,
        batch: Batch,
        factor: float,
        dropout: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Add gradient and loss of one microbatch.

        Args:
            term: name.
            batch: the microbatch, prepared.
            factor: of the summed loss.
            dropout: makes the context that fixes the dropout masks.
        """
        device = batch.images.device
        draw = {
            k: v if isinstance(v, Tensor) else torch.full((), v, device=device)
            for k, v in sorted(batch.draw.items())
            if not isinstance(v, int)
        }
        names = tuple(draw)
        inputs = [torch.full((), factor, device=device), batch.images, batch.labels, *draw.values()]
        # What a settled microbatch knows on the CPU is as good for any other one of its size.
        settled = self.settled(term, batch)
        key = (term, names, len(batch), settled)
        if key not in self._functions:
            host = {k: v.clone() for k, v in batch.host.items()} if settled else {}
            self._functions[key] = self._function(term, names, host)
        function = self._functions[key]
        layouts = tuple(None if x is None else (x.shape, x.stride(), x.dtype) for x in inputs)
        new, before = (key, layouts) not in self._seen, self.pool.stats.captures
        kept = self._buffers() if new else []
        with dropout():
            self.pool.run(key, function, *inputs)
        if not new:
            if self.pool.stats.captures != before:
                raise RuntimeError("the pool of the training step is too small for its graphs")
            return
        # Before its capture the function was run on trial, which has added to the buffers, too.
        self._seen.add((key, layouts))
        torch._foreach_copy_([self.loss_sum, *self._gradients], kept)
        with dropout():
            self.pool.run(key, function, *inputs)

    def _function(
        self, term: str, names: tuple[str, ...], host: dict[str, Tensor]
    ) -> Callable[..., None]:
        def run(factor: Tensor, images: Tensor, labels: Tensor | None, *values: Tensor) -> None:
            batch = Batch(images, labels, dict(zip(names, values, strict=True)), host)
            with torch.enable_grad():
                (losses,) = self.module(term, batch, 0.0)
                loss = losses.sum()
                (loss * factor).backward()
            self.loss_sum.add_(loss.detach())

        return run

    def _buffers(self) -> list[Tensor]:
        return [tensor.clone() for tensor in (self.loss_sum, *self._gradients)]
