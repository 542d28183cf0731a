"""The networks beside the student: what an objective trains with it, and what stays frozen."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..denoiser import Denoiser
from ..losses.objective import Objective
from .distributed import World, same_weights


def companion_of(
    objective: Objective, student: Denoiser, world: World, device: torch.device
) -> nn.Module | None:
    """The module that `objective` trains beside the student, the same on all processes, or None.

    Raises:
        ValueError: if it has nothing to train, shares weights with the student, or has weights
            that are neither float32 nor float64.
    """
    make = getattr(objective, "companion", None)
    companion: nn.Module | None = None if make is None else make(student)
    if companion is None:
        return None
    name = f"the companion of {type(objective).__name__}"
    weights = list(companion.parameters())
    if not any(weight.requires_grad for weight in weights):
        raise ValueError(f"{name} has no weight that requires a gradient")
    if {id(weight) for weight in weights} & {id(weight) for weight in student.parameters()}:
        raise ValueError(f"{name} shares weights with the student")
    wrong = {str(w.dtype) for w in weights if w.dtype not in (torch.float32, torch.float64)}
    if wrong:
        raise ValueError(f"{name} has weights in {sorted(wrong)}; training needs float32")
    companion = companion.to(device).train()
    same_weights(world, companion)
    return companion


def companion_rate(objective: Objective) -> float | None:
    """Learning rate of the companion; None for that of the student.

    Raises:
        ValueError: unless it is positive.
    """
    rate: float | None = getattr(objective, "companion_lr", None)
    if rate is not None and not rate > 0:
        raise ValueError(f"companion_lr must be positive, got {rate}")
    return rate


def frozen(model: Any, device: torch.device) -> Any:
    """`model` on the device, in eval mode and without gradients; what is no module as it is."""
    if not isinstance(model, nn.Module):
        return model
    return model.to(device).eval().requires_grad_(False)
