"""Terms of an objective as forward passes of one module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..losses.objective import Batch, Models, Objective


class TermLoss(nn.Module):
    """Loss of one term, or of all terms, as one forward pass.

    A term may call the student several times, by `forward` and by `jump`; wrapped like this,
    DistributedDataParallel sees one forward per backward.
    """

    def __init__(self, objective: Objective, models: Models) -> None:
        super().__init__()
        self.student = models.student
        self.companion = models.companion
        # A tuple hides modules: only the weights that are trained are to be synchronised.
        self._rest = (objective, models)

    def forward(self, term: str | None, batch: Batch, progress: float) -> tuple[Tensor | None, ...]:
        """Loss per image, (batch,), of one term, or of each of them for None.

        Of all terms, one that takes no part in this step is None.

        Raises:
            ValueError: for a loss of another shape.
        """
        objective, models = self._rest
        if term is not None:
            return (_checked(term, objective.loss(term, batch, models, progress), batch),)
        losses: dict[str, Tensor] = objective.losses(  # type: ignore[attr-defined]
            batch, models, progress
        )
        # Not as one tensor: the gradient of one would pass through all with zeros.
        found = ((name, losses.get(name)) for name in objective.terms)
        return tuple(None if loss is None else _checked(name, loss, batch) for name, loss in found)


def _checked(term: str, loss: Tensor, batch: Batch) -> Tensor:
    if loss.shape != (len(batch),):
        raise ValueError(
            f"term {term!r} returned a loss of shape {tuple(loss.shape)}; "
            f"need one value per image, ({len(batch)},)"
        )
    return loss


def reached(losses: Sequence[Tensor]) -> set[int]:
    """`id` of every leaf that one of the losses depends on."""
    leaves: set[int] = set()
    stack = [loss.grad_fn for loss in losses]
    seen = set(stack)
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
