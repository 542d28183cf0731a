"""The gradient of one optimizer step, term by term, whatever the microbatch size and rank count."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from ..losses.objective import Batch, Models, Objective
from ..models.dropout import shared_dropout
from ..rng import stream
from .distributed import World, any_process, sum_over_processes


class TermLoss(nn.Module):
    """Loss of one term as one forward pass.

    A term may call the student several times, by `forward` and by `jump`; wrapped like this,
    DistributedDataParallel sees one forward per backward.
    """

    def __init__(self, objective: Objective, models: Models) -> None:
        super().__init__()
        self.student = models.student
        # A tuple hides modules: only the student's weights are to be synchronised.
        self._rest = (objective, models)

    def forward(self, term: str, batch: Batch, progress: float) -> Tensor:
        """Loss per image, (batch,)."""
        objective, models = self._rest
        loss: Tensor = objective.loss(term, batch, models, progress)
        if loss.shape != (len(batch),):
            raise ValueError(
                f"term {term!r} returned a loss of shape {tuple(loss.shape)}; "
                f"need one value per image, ({len(batch)},)"
            )
        return loss


@dataclass
class Numbers:
    """What one step measured, on the device; the same on every process."""

    losses: Tensor  # (terms,) mean over the global batch, before the adaptive weight
    weights: Tensor  # (terms,) adaptive weight, 1 for terms without one
    norms: Tensor  # (terms,) gradient norm of each term, before the adaptive weight
    total: Tensor  # () gradient norm of the weighted sum
    stop: Tensor  # () number of processes that were asked to stop

    def packed(self) -> Tensor:
        """All numbers in one float32 vector, so that one copy moves them to the host."""
        scalars = torch.stack([self.total, self.stop])
        return torch.cat([self.losses, self.weights, self.norms, scalars])


class StepGradients:
    """Computes the gradient of one step and leaves it in `p.grad`.

    For each term in turn: backward of sum(loss per image) / global batch over the microbatches,
    synchronised once, on the last one. Then its weight, from gradient norms at the last layer that
    belong to the whole global batch, and the sum over terms. A single term needs no second set of
    gradients, several need one more.

    Dropout masks come from (seed, step, term, first row), so they do not depend on earlier steps;
    they do depend on how the batch is split, as they are drawn per call.

    Args:
        objective: gives the terms.
        models: student, target, teacher on the device.
        world: this process among all.
        batch_size: images per step over all processes.
        microbatch: images per backward pass, or None.
        seed: of the dropout masks.
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
    ) -> None:
        self.objective = objective
        self.models = models
        self.world = world
        self.batch_size = batch_size
        self.microbatch = microbatch
        self.seed = seed
        self.parameters = [p for p in models.student.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        self.module: nn.Module = TermLoss(objective, models)
        self._synchronised = world.size == 1

    def prepare(self, step: int, batch: Batch, progress: float) -> None:
        """The objective's work without gradient, on this process's rows."""
        first = self.world.rank * len(batch)
        with torch.no_grad(), self._dropout(step, 0, first):
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
        objective, count = self.objective, len(self.objective.terms)
        losses = torch.zeros(count + 1, device=self.device)
        losses[-1] = float(stop)
        weights, norms = [], []
        total: list[Tensor | None] = []
        reference = torch.ones((), device=self.device)
        for p in self.parameters:
            p.grad = None
        for k, term in enumerate(objective.terms):
            losses[k] = self._backward(step, k, term, batch, progress, scale)
            gradients = [p.grad for p in self.parameters]
            norms.append(_norm(gradients, self.device) / scale)
            weight = torch.ones((), device=self.device)
            if k == 0 and objective.balance:
                reference = self._last_layer_norm(term) / scale
            elif term in objective.balance:
                weight = objective.balance[term](reference, self._last_layer_norm(term) / scale)
            weights.append(weight)
            total = gradients if k == 0 else _added(total, gradients, weight)
            for p in self.parameters:
                p.grad = None
        for p, gradient in zip(self.parameters, total):
            p.grad = gradient
        sum_over_processes(self.world, losses)
        norm = norms[0] if count == 1 else _norm(total, self.device) / scale
        return Numbers(losses[:-1], torch.stack(weights), torch.stack(norms), norm, losses[-1])

    def _backward(
        self, step: int, k: int, term: str, batch: Batch, progress: float, scale: float
    ) -> Tensor:
        """Accumulate one term's gradient; returns this process's share of the mean loss."""
        size = len(batch)
        micro = min(self.microbatch or size, size)
        first = self.world.rank * size
        # DistributedDataParallel averages over processes, the loss is a sum over them.
        factor = scale * self.world.size / self.batch_size
        loss_sum = torch.zeros((), device=self.device)
        for start in range(0, size, micro):
            stop = min(start + micro, size)
            part = batch.slice(start, stop)
            with self._sync(stop == size), self._dropout(step, k + 1, first + start):
                loss = self.module(term, part, progress)
                (loss.sum() * factor).backward()
            loss_sum += loss.detach().sum()
        return loss_sum / self.batch_size

    def _synchronise(self, step: int, batch: Batch, progress: float) -> None:
        """Wrap the module in DistributedDataParallel, which wants to know of unused weights.

        A term need not use every weight, for example not a label embedding without labels.
        """
        unused = False
        for k, term in enumerate(self.objective.terms):
            with self._dropout(step, k + 1, 0):
                loss = self.module(term, batch.slice(0, min(2, len(batch))), progress)
            used = _reached(loss)
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
        return gradient.float().norm()


def _reached(loss: Tensor) -> set[int]:
    """`id` of every leaf that `loss` depends on."""
    leaves: set[int] = set()
    seen, stack = {loss.grad_fn}, [loss.grad_fn]
    while stack:
        node = stack.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            leaves.add(id(leaf))
        for below, _ in () if node is None else node.next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                stack.append(below)
    return leaves


def _norm(gradients: list[Tensor | None], device: torch.device) -> Tensor:
    present = [g for g in gradients if g is not None]
    if not present:
        raise ValueError("no weight of the student has a gradient; is everything frozen?")
    return get_total_norm(present).float().to(device)


@torch.no_grad()
def _added(
    total: list[Tensor | None], gradients: list[Tensor | None], weight: Tensor
) -> list[Tensor | None]:
    """total + weight * gradients, in place of the operands."""
    both = [(a, b) for a, b in zip(total, gradients) if a is not None and b is not None]
    only = [b for a, b in zip(total, gradients) if a is None and b is not None]
    own = [b for _, b in both] + only
    if own:
        torch._foreach_mul_(own, weight)
    if both:
        torch._foreach_add_([a for a, _ in both], [b for _, b in both])
    return [b if a is None else a for a, b in zip(total, gradients)]
