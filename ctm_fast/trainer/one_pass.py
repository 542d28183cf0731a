"""Adaptive weights from gradients at the student's output, so that one backward pass is enough.

The gradient of each term at the student's output F is all that its weight needs: the rest of the
way, from F to the weight W that the norms are measured at, is the network's last layers alone.
After that, the weighted sum of these gradients goes through the student once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..losses.objective import Balance, Objective
from .distributed import World, sum_over_processes
from .sums import wide


def check_one_pass(
    objective: Objective, microbatch: int | None, share: int, companion: nn.Module | None = None
) -> None:
    """Raise ValueError unless the terms of `share` images can be differentiated together."""
    # With phases the terms that are differentiated together are those of the student's steps.
    if companion is not None and not hasattr(objective, "trains"):
        raise ValueError(
            f"one_pass=True differentiates the student alone, and {type(objective).__name__} "
            "trains a module beside it; set one_pass=False"
        )
    if not getattr(objective, "joint", False):
        raise ValueError(
            f"one_pass=True needs terms that call the student together, which this "
            f"{type(objective).__name__} does not; set one_pass=False"
        )
    if microbatch is not None and microbatch < share:
        raise ValueError(
            f"one_pass=True keeps the whole batch's activations: microbatch={microbatch} must be "
            f"None or at least the {share} images of a process"
        )


@contextmanager
def student_outputs(net: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what `net` answers with gradient, call by call."""
    outputs: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        if output.requires_grad:
            outputs.append(output)

    handle = net.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()


def backward_together(
    losses: Sequence[Tensor],
    outputs: Sequence[Tensor],
    last: Tensor,
    terms: Sequence[str],
    balance: Mapping[str, Balance],
    world: World,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Differentiate the weighted sum of all terms in one pass; (weights, norms), (terms,) each.

    Args:
        losses: one number per term, the scaled sum over this process's images.
        outputs: of the student; none may depend on another, and no loss on the student otherwise.
        last: weight of the last layer, where the norms of the global batch are measured.
        terms: names; the first is the reference.
        balance: adaptive weights by term.
        world: this process among all; gradients are averaged over processes.
        scale: loss scale, which the norms are freed of.
    """
    # The terms share the last operations, so only the costliest and last one may free its graph.
    order = list(reversed(range(len(terms))))
    at_output: dict[int, list[Tensor]] = {}
    for k in order:
        keep = k != order[-1]
        found = torch.autograd.grad(losses[k], outputs, retain_graph=keep, allow_unused=True)
        at_output[k] = [torch.zeros_like(out) if g is None else g for out, g in zip(outputs, found)]
    local = torch.stack([_at(last, outputs, at_output[k]) for k in range(len(terms))])
    total = sum_over_processes(world, local) / world.size
    norms = total.to(wide(total)).flatten(1).norm(dim=1) / scale
    one = torch.ones_like(norms[0])
    weights = torch.stack(
        [balance[t](norms[0], norms[k]) if t in balance else one for k, t in enumerate(terms)]
    )
    combined = [
        sum(weights[k] * at_output[k][i] for k in range(1, len(terms))) + at_output[0][i]
        for i in range(len(outputs))
    ]
    torch.autograd.backward(list(outputs), combined)
    return weights, norms


def _at(last: Tensor, outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    if not last.requires_grad:
        raise ValueError(
            "one_pass measures gradients at the student's last layer; train the last layer, or "
            "set one_pass=False"
        )
    (gradient,) = torch.autograd.grad(outputs, last, gradients, retain_graph=True)
    return gradient
