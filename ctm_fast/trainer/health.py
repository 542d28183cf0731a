"""Watching the numbers of each step: non-finite losses, means for the log, agreement to stop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .gradients import Numbers
from .log import Window

Active = tuple[bool, ...] | None  # which terms took part in a step; None: all


class NonFiniteLoss(RuntimeError):
    """A loss, gradient or weight became NaN or infinite.

    Attributes:
        step: number of finished steps before the bad one.
        term: the objective's term, or "all terms" or "weights" when it cannot be told.
        checkpoint: last good checkpoint, or None.
    """

    def __init__(self, step: int, term: str, what: str, checkpoint: Path | None) -> None:
        self.step, self.term, self.checkpoint = step, term, checkpoint
        last = f"last good checkpoint: {checkpoint}" if checkpoint else "no checkpoint was written"
        super().__init__(f"{what} of {term!r} at step {step} is not finite; {last}")


class Monitor:
    """Reads every step's numbers on the host.

    On a GPU they are read while the next step is being queued, so the host never waits for the
    step it has just queued: a bad step is found before the next update, and always before a
    checkpoint or a log line is written. On a CPU, and with fp16's loss scale, at once.

    Args:
        terms: of the objective.
        late: read one step late.
        scaled: the gradient is that of a scaled fp16 loss, whose overflow is handled elsewhere.
        diagnostics: names of the objective's own numbers; these may be anything.
    """

    def __init__(
        self, terms: Sequence[str], *, late: bool, scaled: bool, diagnostics: Sequence[str] = ()
    ) -> None:
        self.terms = tuple(terms)
        self.late = late
        self.scaled = scaled
        self.window = Window(terms, diagnostics)
        self.stop = False
        self.checkpoint: Path | None = None
        self._pending: tuple[int, Tensor, Active, torch.cuda.Event] | None = None

    def watch(self, step: int, numbers: Numbers) -> None:
        """Take in the numbers of step `step`.

        Raises:
            NonFiniteLoss: if they, or late ones, are not finite.
        """
        packed = numbers.packed()
        if not self.late:
            self._read(step, packed.tolist(), numbers.active)
            return
        host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
        host.copy_(packed, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self.flush()
        self._pending = (step, host, numbers.active, event)

    def flush(self) -> None:
        """Read what is still on its way.

        Raises:
            NonFiniteLoss: if it is not finite.
        """
        if self._pending is not None:
            step, host, active, event = self._pending
            self._pending = None
            event.synchronize()
            self._read(step, host.tolist(), active)

    def _read(self, step: int, values: list[float], active: Active) -> None:
        k = len(self.terms)
        losses, norms, total = values[:k], values[2 * k : 3 * k], values[3 * k]
        self.stop = self.stop or values[3 * k + 1] > 0
        for term, loss in zip(self.terms, losses):
            if not math.isfinite(loss):
                raise NonFiniteLoss(step, term, "the loss", self.checkpoint)
        if not math.isfinite(total):
            if self.scaled:
                return
            bad = [term for term, norm in zip(self.terms, norms) if not math.isfinite(norm)]
            term = bad[0] if bad else "all terms"
            raise NonFiniteLoss(step, term, "the gradient", self.checkpoint)
        self.window.add(values[: 3 * k + 1], active)
        self.window.diagnose(values[3 * k + 2 :])
