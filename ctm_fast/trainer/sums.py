"""Norms and sums of lists of gradients, of which some may be missing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

Gradients = Sequence[Tensor | None]  # in the order of the weights


def wide(tensor: Tensor) -> torch.dtype:
    """The dtype in which norms of it are kept: float32, or float64 for float64."""
    return torch.promote_types(tensor.dtype, torch.float32)


def norm_of(gradients: Gradients) -> Tensor:
    """Norm of all of them together, a scalar.

    Raises:
        ValueError: if there is none.
    """
    present = [g for g in gradients if g is not None]
    if not present:
        raise ValueError("no weight of the student has a gradient; is everything frozen?")
    return get_total_norm(present).to(present[0].device, wide(present[0]))


@torch.no_grad()
def added(total: Gradients, gradients: Gradients, weight: Tensor) -> list[Tensor | None]:
    """total + weight * gradients, in place of the operands; an empty total is nothing."""
    total = total or [None] * len(gradients)
    both = [(a, b) for a, b in zip(total, gradients) if a is not None and b is not None]
    only = [b for a, b in zip(total, gradients) if a is None and b is not None]
    own = [b for _, b in both] + only
    if own:
        torch._foreach_mul_(own, weight)
    if both:
        torch._foreach_add_([a for a, _ in both], [b for _, b in both])
    return [b if a is None else a for a, b in zip(total, gradients)]
