"""The gradient of one optimizer step, term by term, whatever the microbatch size and rank count."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..losses.objective import Batch, Models, Objective
from ..models.dropout import shared_dropout
from ..rng import stream
from .captured import CapturedTerms, Pool, check_capture
from .diagnostics import diagnosed
from .distributed import World, any_process, sum_over_processes
from .one_pass import backward_together, check_one_pass, student_outputs
from .sums import added, norm_of, wide
from .term_loss import TermLoss, reached


@dataclass
class Numbers:
    """What one step measured, on the device; the same on every process."""

    losses: Tensor  # (terms,) mean over the global batch, before the adaptive weight
    weights: Tensor  # (terms,) adaptive weight, 1 for terms without one
    # (terms,) gradient norm of each term before its weight; with one_pass, at the last layer
    norms: Tensor
    total: Tensor  # () gradient norm of the weighted sum
    stop: Tensor  # () number of processes that were asked to stop
    active: tuple[bool, ...] | None = None  # which terms took part; None: all
    diagnostics: Tensor | None = None  # the objective's own numbers; NaN where there is none

    def packed(self) -> Tensor:
        """All numbers in one float32 vector, so that one copy moves them to the host."""
        parts = (self.losses, self.weights, self.norms, self.total, self.stop)
        own = () if self.diagnostics is None else (self.diagnostics,)
        return torch.cat([part.reshape(-1).float() for part in (*parts, *own)])


class StepGradients:
    """Computes the gradient of one step and leaves it in `p.grad`.

    For each term in turn: backward of sum(loss per image) / global batch over the microbatches,
    synchronised once, on the last one. Then its weight, from gradient norms at the last layer that
    belong to the whole global batch, and the sum over terms. A single term needs no second set of
    gradients, several need one more. No network is passed through twice for a weight.

    With `one_pass` all terms are differentiated together, see `one_pass`: no second set of
    gradients and one synchronisation, but the activations of all terms are alive at once, and the
    batch cannot be split. The result is the same up to rounding and dropout masks.

    Dropout masks come from (seed, step, term, first row), so they do not depend on earlier steps;
    they do depend on how the batch is split, as they are drawn per call.

    Args:
        objective: gives the terms.
        models: what the terms use, on the device; student and companion are differentiated.
        world: this process among all.
        batch_size: images per step over all processes.
        microbatch: images per backward pass, or None.
        seed: of the dropout masks.
        one_pass: differentiate all terms together.
        pool: capture each microbatch as a CUDA graph in it.

    Raises:
        ValueError: if the objective, the microbatch or the number of processes do not allow
            `one_pass` or a capture.
    """

    def __init__(
        self,
        objective: Objective,
        models: Models,
        world: World,
        *,
        batch_size: int,
        microbatch: int | None,
        seed: int,
        one_pass: bool = False,
        pool: Pool | None = None,
    ) -> None:
        self.objective = objective
        self.models = models
        self.world = world
        self.batch_size = batch_size
        self.microbatch = microbatch
        self.seed = seed
        trained = [models.student, *([models.companion] if models.companion else [])]
        self.parameters = [p for m in trained for p in m.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        self.module: nn.Module = TermLoss(objective, models)
        self._synchronised = world.size == 1
        self.one_pass = one_pass and len(objective.terms) > 1
        if self.one_pass:
            check_one_pass(objective, microbatch, batch_size // world.size, models.companion)
        self._active = getattr(objective, "active", lambda term, batch: True)
        self.lap: Callable[[str], None] = lambda part: None  # called where a term's work ends
        self._captured: CapturedTerms | None = None
        if pool is not None:
            check_capture(objective, world)
            settled = getattr(objective, "settled", lambda term, batch: False)
            self._captured = CapturedTerms(self.module, self.parameters, pool, settled)

    def prepare(self, step: int, batch: Batch, progress: float) -> None:
        """The objective's work without gradient, on this process's rows, which may be reordered."""
        order = getattr(self.objective, "order", lambda batch: None)
        split = self.microbatch is not None and self.microbatch < len(batch)
        if split and (rows := order(batch)) is not None:
            batch.reorder(rows)
        with torch.no_grad(), self._dropout(step, 0, self.world.rank * len(batch)):
            self._work(batch, progress)

    def _work(self, batch: Batch, progress: float) -> None:
        self.objective.prepare(batch, self.models, progress)

    def __call__(
        self, step: int, batch: Batch, progress: float, scale: float = 1.0, stop: bool = False
    ) -> Numbers:
        """Gradient of the step, multiplied by the loss scale, in `p.grad`.

        Args:
            step: number of finished steps.
            batch: this process's rows, prepared.
            progress: training position in [0, 1).
            scale: loss scale of fp16.
            stop: whether this process was asked to stop; the sum over processes is returned.
        """
        if not self._synchronised:
            self._synchronise(step, batch, progress)
        for p in self.parameters:
            p.grad = None
        active = tuple(bool(self._active(term, batch)) for term in self.objective.terms)
        compute = self._together if self.one_pass and sum(active) > 1 else self._in_turn
        with self._one_cast():
            losses, weights, norms, norm = compute(step, batch, progress, scale)
        asked = torch.full((1,), float(stop), device=self.device)
        told = diagnosed(self.objective, batch, self.batch_size, self.device)
        sums, k = sum_over_processes(self.world, torch.cat([losses, asked, told])), len(losses)
        return Numbers(sums[:k], weights, norms, norm, sums[k], active, sums[k + 1 :])

    def _together(
        self, step: int, batch: Batch, progress: float, scale: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Losses, weights, norms and the total norm, by one backward pass for all terms."""
        first, factor = self.world.rank * len(batch), self._factor(scale)
        objective, student = self.objective, self.models.student
        with student_outputs(student.net) as outputs, self._dropout(step, 1, first):
            found = self.module(None, batch, progress)
        present = [k for k, loss in enumerate(found) if loss is not None]
        losses = [found[k].sum() for k in present]
        weights, norms = backward_together(
            [loss * factor for loss in losses],
            outputs,
            student.last_layer.weight,
            [objective.terms[k] for k in present],
            objective.balance,
            self.world,
            scale,
        )
        total = norm_of([p.grad for p in self.parameters]) / scale
        self.lap("+".join(objective.terms[k] for k in present))
        means = torch.stack(losses).detach() / self.batch_size
        # Terms that take no part: no loss, no gradient, weight 1.
        measured = [means.new_full((len(found),), fill) for fill in (0.0, 1.0, 0.0)]
        for whole, values in zip(measured, (means, weights, norms)):
            for k, value in zip(present, values):
                whole[k] = value
        return measured[0], measured[1], measured[2], total

    def _in_turn(
        self, step: int, batch: Batch, progress: float, scale: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Losses, weights, norms and the total norm, one term after the other."""
        objective, device = self.objective, self.device
        losses: list[Tensor] = []
        weights: list[Tensor] = []
        norms: list[Tensor] = []
        total: list[Tensor | None] = []
        reference = one = torch.ones((), device=device, dtype=wide(self.parameters[0]))
        for k, term in enumerate(objective.terms):
            weight = one
            if not self._active(term, batch):
                losses.append(0 * one)
                norms.append(0 * one)
                weights.append(one)
                continue
            losses.append(self._backward(step, k, term, batch, progress, scale))
            gradients = [p.grad for p in self.parameters]
            norms.append(norm_of(gradients) / scale)
            if k == 0 and objective.balance:
                reference = self._last_layer_norm(term) / scale
            elif term in objective.balance:
                weight = objective.balance[term](reference, self._last_layer_norm(term) / scale)
            weights.append(weight)
            self.lap(term)
            if self._captured is not None and k + 1 < len(objective.terms):
                # Graphs write to the same memory again: what is kept has to leave it.
                gradients = [None if g is None else g.clone() for g in gradients]
            total = added(total, gradients, weight) if k else gradients
            for p in self.parameters:
                p.grad = None
        for p, gradient in zip(self.parameters, total):
            p.grad = gradient
        norm = norms[0] if len(norms) == 1 else norm_of(total) / scale
        return torch.stack(losses), torch.stack(weights), torch.stack(norms), norm

    def _factor(self, scale: float) -> float:
        # DistributedDataParallel averages over processes, the loss is a sum over them.
        return scale * self.world.size / self.batch_size

    def _backward(
        self, step: int, k: int, term: str, batch: Batch, progress: float, scale: float
    ) -> Tensor:
        """Accumulate one term's gradient; returns this process's share of the mean loss."""
        size, factor = len(batch), self._factor(scale)
        micro = min(self.microbatch or size, size)
        first = self.world.rank * size
        loss_sum = torch.zeros((), device=self.device)
        if self._captured is not None:
            self._captured.begin()
        for start in range(0, size, micro):
            stop = min(start + micro, size)
            part = batch.slice(start, stop)
            dropout = partial(self._dropout, step, k + 1, first + start)
            if self._captured is not None:
                self._captured(term, part, factor, dropout)
                continue
            with self._sync(stop == size), dropout():
                (loss,) = self.module(term, part, progress)
                (loss.sum() * factor).backward()
            loss_sum += loss.detach().sum()
        if self._captured is not None:
            loss_sum += self._captured.loss_sum
        return loss_sum / self.batch_size

    def _synchronise(self, step: int, batch: Batch, progress: float) -> None:
        """Wrap the module in DistributedDataParallel, which wants to know of unused weights.

        A term need not use every weight, for example not a label embedding without labels; steps
        that train one of two modules never do.
        """
        unused = hasattr(self.objective, "trains")
        terms = [] if unused else [None] if self.one_pass else self.objective.terms
        for k, term in enumerate(terms):
            with self._dropout(step, k + 1, 0):
                losses = self.module(term, batch.slice(0, min(2, len(batch))), progress)
            used = reached(losses)
            unused = unused or not all(id(p) in used for p in self.parameters)
        with warnings.catch_warnings():
            # The option has another name from torch 2.13 on, which older versions lack.
            warnings.simplefilter("ignore", FutureWarning)
            self.module = DistributedDataParallel(
                self.module,
                broadcast_buffers=False,
                find_unused_parameters=any_process(self.world, unused),
            )
        self._synchronised = True

    def release(self) -> None:
        """Let go of DistributedDataParallel, which keeps the process group alive."""
        if isinstance(self.module, DistributedDataParallel):
            self.module = self.module.module
            self._synchronised = False

    def _one_cast(self) -> AbstractContextManager[Any]:
        """Inside, autocast casts each of the student's weights once, not once per call.

        Its cache lasts as long as the outermost of its contexts. In a graph it would not.
        """
        if self.models.student.dtype is None or self._captured is not None:
            return nullcontext()
        return torch.autocast(self.device.type, enabled=False)

    @contextmanager
    def _sync(self, last: bool) -> Iterator[None]:
        module: Any = self.module
        with nullcontext() if last or self.world.size == 1 else module.no_sync():
            yield

    @contextmanager
    def _dropout(self, step: int, what: int, row: int) -> Iterator[None]:
        seed = stream(self.seed, step, what, row).initial_seed()
        with shared_dropout(self.device, seed):
            yield

    def _last_layer_norm(self, term: str) -> Tensor:
        gradient = self.models.student.last_layer.weight.grad
        if gradient is None:
            raise ValueError(
                f"term {term!r} has no gradient at the student's last layer, which its adaptive "
                "weight is measured at; train the last layer, or use an objective without balance"
            )
        return gradient.to(wide(gradient)).norm()
