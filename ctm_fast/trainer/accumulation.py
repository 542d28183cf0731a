"""Holds the global batch where memory is short: smaller microbatches, the same step again."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ..losses.objective import Batch
from ..losses.trajectories import forget_solves
from .distributed import World, any_process
from .gradients import Numbers, StepGradients

# The optimizer allocates its moments in the first update, so the second step needs more.
TRIALS = 2


class OutOfMemory(RuntimeError):
    """A step does not fit into memory, however the batch is split."""


class Accumulation(StepGradients):
    """`StepGradients` that halves the microbatch when memory runs out, and repeats the step.

    The work without gradient, a teacher's solve above all, is halved by itself. Noise, data and
    dropout are functions of (seed, step), so what comes out is what a run with the smaller
    microbatch gives, unless a loss takes statistics of a microbatch, as BatchNorm does. What was
    halved stays so for the rest of the run; a line says so.

    Several processes have to agree before they exchange gradients. Each first tries a step alone,
    without exchange: the first two steps of every kind (a GAN has two kinds) therefore cost twice
    as much. Memory that runs out in a later step ends the run of several processes.

    Arguments are those of `StepGradients`, and `say`, which prints a line; tqdm's by default.
    """

    def __init__(
        self, *args: Any, say: Callable[[str], object] = tqdm.write, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.say = say
        self.reduced = False  # whether the microbatch is no longer the configured one
        self.prepared: int | None = None  # images per call of `prepare`, once it was halved
        self._raw: Batch | None = None
        self._tried: Counter[tuple[bool, ...]] = Counter()

    @property
    def noted(self) -> dict[str, int]:
        """What a log entry says: how many images there are at a time, once that was reduced."""
        sizes = {"microbatch": self.microbatch if self.reduced else None, "prepared": self.prepared}
        return {name: size for name, size in sizes.items() if size}

    def prepare(self, step: int, batch: Batch, progress: float) -> None:
        """As `StepGradients.prepare`, in as many parts as memory asks for.

        Raises:
            OutOfMemory: if one image does not fit, or the objective cannot do with parts.
        """
        raw = Batch(batch.images, batch.labels, dict(batch.draw), dict(batch.host))
        prepare = super().prepare
        while not self._fits(lambda: prepare(step, batch, progress)):
            self._restore(batch, raw)
            self._shorter(step, len(batch))
        self._raw = raw

    def _work(self, batch: Batch, progress: float) -> None:
        size = self.prepared or len(batch)
        if size >= len(batch):
            super()._work(batch, progress)
            return
        parts = [batch.slice(i, min(i + size, len(batch))) for i in range(0, len(batch), size)]
        for part in parts:
            super()._work(part, progress)
        batch.take(parts)

    def _shorter(self, step: int, share: int) -> None:
        """Half the images per call of `prepare`.

        Raises:
            OutOfMemory: if there is only one image left, or all have to be there at once.
        """
        before = min(self.prepared or share, share)
        if before == 1 or getattr(self.objective, "whole_batch", False):
            raise OutOfMemory(
                f"out of memory in step {step} before the backward passes, in work on {before} of "
                f"the {share} images of a process, which cannot be split further: use more "
                "processes or a smaller batch_size, with a teacher teacher_dtype bfloat16"
            )
        forget_solves(self.models)
        self.prepared = before // 2
        if self.world.first:
            self.say(
                f"out of memory in step {step}, in work without gradient on {before} images at a "
                f"time; it is repeated with {self.prepared}"
            )

    def __call__(
        self, step: int, batch: Batch, progress: float, scale: float = 1.0, stop: bool = False
    ) -> Numbers:
        """As `StepGradients.__call__`.

        Raises:
            OutOfMemory: if one image at a time does not fit either, or if one of several processes
                runs out of memory after the steps that were tried.
        """
        kind = tuple(bool(self._active(term, batch)) for term in self.objective.terms)
        while self.world.size > 1 and self._tried[kind] < TRIALS:
            fits = self._fits(lambda: self._alone(step, batch, progress, scale))
            if any_process(self.world, not fits):
                self._smaller(step, batch, progress)
            else:
                self._tried[kind] += 1
                break
        found: list[Numbers] = []
        call = super().__call__
        while not self._fits(lambda: found.append(call(step, batch, progress, scale, stop))):
            if self.world.size > 1:
                raise OutOfMemory(
                    f"process {self.world.rank} ran out of memory in step {step} with "
                    f"{self._micro(batch)} images at a time, after steps that had fitted; the run "
                    f"continues from its last checkpoint with --microbatch "
                    f"{max(1, self._micro(batch) // 2)}"
                )
            self._smaller(step, batch, progress)
        return found[0]

    def _fits(self, attempt: Callable[[], object]) -> bool:
        """Whether `attempt` ends; if memory runs out, the companion's buffers are as before."""
        before = [buffer.clone() for buffer in self._buffers()]
        failed = False
        try:
            attempt()
        except torch.OutOfMemoryError:
            failed = True
        if failed:
            # Outside of `except`, where the traceback would keep the activations alive.
            self._free(before)
        return not failed

    def _alone(self, step: int, batch: Batch, progress: float, scale: float) -> None:
        """One step of this process without exchange; nothing is left of it."""
        if not self._synchronised:
            self._synchronise(step, batch, progress)
        world, module, before = self.world, self.module, [b.clone() for b in self._buffers()]
        inner = module.module if isinstance(module, DistributedDataParallel) else module
        try:
            self.world, self.module = World(world.rank, 1), inner
            super().__call__(step, batch, progress, scale)
        finally:
            self.world, self.module = world, module
        self._free(before)

    def _smaller(self, step: int, batch: Batch, progress: float) -> None:
        """Half the microbatch, and the batch as it was before the step, prepared for that.

        Raises:
            OutOfMemory: if there is only one image left.
        """
        before = self._micro(batch)
        if self._captured is not None:
            raise OutOfMemory(
                f"out of memory in step {step} with {before} images at a time and capture=True, "
                f"whose graphs keep their size: --microbatch {max(1, before // 2)}"
            )
        self._tried.clear()
        if self.one_pass:
            self.one_pass, told = False, "one term after the other"
        elif before == 1:
            raise OutOfMemory(
                f"out of memory in step {step} with one image at a time: weights, gradients, "
                "moments and averages leave no room; use a GPU with more memory, fewer averages "
                "(ema), or a teacher in bfloat16"
            )
        else:
            self.microbatch, self.reduced = before // 2, True
            told = f"microbatch {self.microbatch}"
        if self.world.first:
            self.say(
                f"out of memory in step {step} with {before} images at a time; it is repeated with "
                f"{told}, the global batch of {self.batch_size} stays"
            )
        if self._raw is not None:
            self._restore(batch, self._raw)
            self.prepare(step, batch, progress)

    @staticmethod
    def _restore(batch: Batch, raw: Batch) -> None:
        batch.images, batch.labels = raw.images, raw.labels
        batch.draw, batch.host = dict(raw.draw), dict(raw.host)

    def _micro(self, batch: Batch) -> int:
        return min(self.microbatch or len(batch), len(batch))

    def _buffers(self) -> list[Tensor]:
        companion = self.models.companion
        return [] if companion is None else list(companion.buffers())

    def _free(self, buffers: list[Tensor]) -> None:
        for p in self.parameters:
            p.grad = None
        for buffer, value in zip(self._buffers(), buffers):
            buffer.copy_(value)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
