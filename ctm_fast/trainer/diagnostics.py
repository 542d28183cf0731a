"""Numbers that an objective leaves for the log: the names in its `diagnostics`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..losses.objective import Batch


def names_of(objective: Any) -> tuple[str, ...]:
    """What the objective wants in every log line; nothing where it says nothing."""
    return tuple(getattr(objective, "diagnostics", ()))


def diagnosed(objective: Any, batch: Batch, batch_size: int, device: torch.device) -> Tensor:
    """This process's share of each diagnostic's mean over the global batch, (names,) float32.

    The sum over processes is the mean. What is not in the draw of this step is NaN.
    """
    shares = [_share(batch.draw.get(name), batch_size) for name in names_of(objective)]
    missing = torch.full((), float("nan"), device=device)
    found = [missing if share is None else share.to(missing) for share in shares]
    return torch.stack(found) if found else torch.empty(0, device=device)


def _share(values: Any, batch_size: int) -> Tensor | None:
    if not isinstance(values, Tensor) or values.ndim == 0:
        return None
    # A row with several numbers counts with their mean.
    return values.detach().double().reshape(len(values), -1).mean(1).sum() / batch_size
