"""The fewest bytes that a case has to move between memory and chip."""

from __future__ import annotations

import math
from collections.abc import Iterable

from .cases import Problem, Tensor, named_tensors
from .eager import plain


def least_bytes(problem: Problem, results: list[Tensor]) -> int:
    """Bytes of a kernel that reads every argument once and writes every result once.

    The backward pass reads the gradients of the results, and again those arguments that the
    derivative depends on (`Plain.reread`), and writes one gradient for each that was asked for.

    Args:
        problem: the case.
        results: what its op returned.
    """
    arguments = named_tensors(problem.op, problem.args, problem.kwargs)
    moved = size(arguments.values()) + size(results)
    if problem.case.gradient:
        reread = plain(problem.op).reread
        again = [t for n, t in arguments.items() if reread is None or n.split("[")[0] in reread]
        moved += size(results) + size(again) + size(problem.wanted.values())
    return moved


def size(values: Iterable[Tensor]) -> int:
    """Bytes of the elements that lie in memory; an expanded dimension counts once."""
    return sum(
        t.element_size() * math.prod(n for n, step in zip(t.shape, t.stride()) if step)
        for t in values
    )
