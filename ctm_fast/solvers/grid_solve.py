"""Solves of many images along one grid of noise levels, each with its own start and length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .base import check_levels
from .memory import Memory
from .slots import moves, schedule

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
Run = Callable[..., Any]


class Table(Protocol):
    """Coefficients of a solver on a grid, and the pass that uses them.

    A pass works on a batch of states; a state is a list of images: x itself, c_in x in the
    network's dtype, and `history` more like x.
    """

    history: int
    idle: int  # column that moves nothing
    num_scales: int

    def passes(self, steps: Tensor) -> Tensor:
        """Passes after which an image has done `steps` steps, shape of `steps`."""
        ...

    def columns(self, start: Tensor, passes: int) -> Tensor:
        """(images, passes) column of every pass of images that begin at index `start`."""
        ...

    def scale(self, start: Tensor) -> Tensor:
        """c_in at grid index `start`, (batch,)."""
        ...

    def noise_inputs(self) -> Tensor:
        """c_noise of the whole grid, (num_scales,)."""
        ...

    def advance(self, network: Network, column: Tensor, state: list[Tensor]) -> list[Tensor]:
        """The states after one pass; network(scaled, c_noise, grid index) -> F."""
        ...


class GridSolve:
    """Moves images along the grid of a table; memory and tables are kept from call to call.

    Passes are put into network batches by `schedule`. All numbers that say which image goes where
    are known before the first pass and travel in one copy, so nothing waits for a GPU.

    Args:
        denoiser: has `raw` and `precond`; `raw` is called as raw(scaled, c_noise, c_noise_to,
            labels), on a network with `modulation` and without weight gradients as raw(scaled,
            c_noise, c_noise_to, None, modulation=rows).
        table: what a pass does, in the dtype and on the device of the states.
        slots: images per network batch; None: all of the call.
        sizes: how many batch sizes may occur besides `slots`; batches between them are padded.
            None: any, and nothing is padded.
        run: called as run(key, function, numbers) instead of function(numbers), which writes into
            memory that lasts as long as the key occurs; calling it twice does no harm. For CUDA
            graphs.
    """

    def __init__(
        self,
        denoiser: Any,
        table: Table,
        *,
        slots: int | None = None,
        sizes: int | None = None,
        run: Run | None = None,
    ) -> None:
        if slots is not None and slots < 1:
            raise ValueError(f"slots must be at least 1, got {slots}")
        self.denoiser, self.table = denoiser, table
        self.slots, self.sizes, self.run = slots, sizes, run
        self._memories: dict[Any, Memory] = {}
        self._rows: Tensor | None = None
        self._rows_of: tuple[int, ...] = ()

    # What is made under inference_mode could not be written to outside of it.
    @torch.inference_mode(False)
    @torch.no_grad()
    def __call__(
        self,
        x: Tensor,
        start: Tensor,
        steps: Tensor,
        labels: Tensor | None = None,
        keep: bool = False,
    ) -> Tensor:
        """States after `steps` steps, (kept, *shape of x), channels-last where x has 4 axes.

        Args:
            x: (batch, ...) in the table's dtype and on its device, image j at index start[j].
            start: (batch,) int64 on the CPU.
            steps: (kept, batch) int64 on the CPU; without `keep`, kept is 1.
            labels: (batch,), (batch, classes) or (1, classes), passed to the network.
            keep: whether to return states in between.
        """
        if not len(x):
            return x.expand(len(steps), *x.shape).clone()
        memory = self._memory(x, labels, len(steps) if keep else 0)
        asked = self.table.passes(steps)
        passes = asked.amax(0)
        slots = min(self.slots or len(x), len(x))
        granularity = 1 if self.sizes is None else -(-slots // self.sizes)
        plan = schedule(passes, slots, granularity)
        columns = self.table.columns(start, int(passes.max()))
        planned = moves(plan, start, columns, asked, memory.capacity, self.table.idle, keep)
        planned = planned.to(x.device)
        c_in = self.table.scale(planned.start)
        memory.begin(x, planned.first if keep else None, c_in, labels)
        rows = self._modulation() if labels is None else None

        def advance(batch: Tensor) -> None:
            source, target, column = batch.unbind()
            network = self._network(memory.classes(source), rows)
            memory.write(target, self.table.advance(network, column, memory.read(source)))

        key = ("solve", memory.token, None if rows is None else rows.data_ptr())
        for batch in planned.batches:
            if self.run is None:
                advance(batch)
            else:
                self.run(key, advance, batch)
        return memory.states(planned.last)

    def _network(self, labels: Tensor | None, rows: Tensor | None) -> Network:
        raw = self.denoiser.raw

        def network(scaled: Tensor, c_noise: Tensor, index: Tensor) -> Tensor:
            to = self._told_itself(c_noise)
            if rows is None:
                return raw(scaled, c_noise, to, labels)
            return raw(scaled, c_noise, to, None, modulation=rows.index_select(0, index))

        return network

    def _told_itself(self, c_noise: Tensor) -> Tensor | None:
        """What a network that could jump is told of the destination where it denoises."""
        if getattr(self.denoiser, "kind", None) != "trajectory":
            return None
        told: Tensor = self.denoiser.precond.c_noise_to(c_noise, c_noise)
        return told

    def _modulation(self) -> Tensor | None:
        """What the network is told at every level, if it can be asked and its weights stay."""
        net = getattr(self.denoiser, "net", None)
        embed = getattr(net, "modulation", None)
        if not isinstance(net, torch.nn.Module) or embed is None:
            return None
        weights = list(net.parameters())
        cast = getattr(self.denoiser, "dtype", None) not in (None, *{p.dtype for p in weights})
        if cast or any(p.requires_grad for p in weights):
            return None
        versions = tuple(n for p in weights for n in (p.data_ptr(), p._version))
        if versions != self._rows_of:
            levels = self.table.noise_inputs()
            # A pass that moves nothing may look at the level after the last one.
            levels = torch.cat([levels, levels[-1:]])
            rows = embed(levels, self._told_itself(levels))
            if self._rows is None or self._rows.shape != rows.shape:
                self._rows = rows
            self._rows.copy_(rows)
            self._rows_of = versions
        return self._rows

    def _memory(self, x: Tensor, labels: Tensor | None, kept: int) -> Memory:
        own = network_dtype(self.denoiser, x)
        told = None
        if labels is not None:
            single = len(labels) == 1 and len(x) != 1
            told = (labels.shape[1:], labels.dtype, single)
        kind = (x.shape[1:], x.dtype, x.device, own, told, kept)
        memory = self._memories.get(kind)
        if memory is None or memory.capacity < len(x):
            memory = Memory(x, own, labels, kept, self.table.history)
            self._memories[kind] = memory
        return memory


def network_dtype(denoiser: Any, x: Tensor) -> torch.dtype:
    """Dtype of the denoiser's weights; that of x where there are none."""
    if not isinstance(denoiser, torch.nn.Module):
        return x.dtype
    parameter: Tensor = next(denoiser.parameters(), x)
    return parameter.dtype


def check_grid(x: Tensor, sigmas: Tensor | Sequence[float]) -> int:
    """Number of levels of a grid that can be walked with a state like x.

    Raises:
        ValueError: for a state in half precision or inadmissible levels.
    """
    levels = check_levels(x, sigmas)
    if isinstance(levels[0], Tensor) or levels[-1] == 0:
        raise ValueError("a teacher solve needs sigmas (num_scales,), all above 0")
    return len(levels)


def check_steps(
    batch: int, num_scales: int, start: Tensor, num_steps: int | Tensor
) -> tuple[Tensor, Tensor]:
    """start and num_steps as (batch,) int64 on the CPU.

    Raises:
        ValueError: for real numbers, other shapes, or steps off the grid.
    """
    start, steps = torch.as_tensor(start).cpu(), torch.as_tensor(num_steps).cpu()
    if start.is_floating_point() or steps.is_floating_point():
        raise ValueError(
            "start and num_steps must be whole numbers of grid steps; real positions "
            "(time_continuous) have no teacher solve"
        )
    if start.shape != (batch,) or steps.numel() not in (1, batch):
        raise ValueError(
            f"start must be ({batch},) and num_steps a number or ({batch},), got "
            f"{tuple(start.shape)} and {tuple(steps.shape)}"
        )
    start, steps = start.long(), steps.long().reshape(-1).expand(batch)
    wrong = (start < 0) | (steps < 0) | (start + steps > num_scales - 1)
    if wrong.any():
        i, n = (int(numbers[wrong][0]) for numbers in (start, steps))
        raise ValueError(
            f"start={i} with num_steps={n} leaves the grid of {num_scales} levels; need "
            f"start >= 0, num_steps >= 0 and start + num_steps <= {num_scales - 1}"
        )
    return start, steps
