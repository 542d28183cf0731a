"""The networks beside the student: what an objective trains with it, and what stays frozen."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ..losses.objective import Models, Objective
from .distributed import World, same_weights, sum_over_processes


def companion_of(
    objective: Objective, models: Models, world: World, device: torch.device
) -> nn.Module | None:
    """The module that `objective` trains beside the student, the same on all processes, or None.

    `models` are the networks that exist by then: student, teacher and weak.

    Raises:
        ValueError: if it has nothing to train, shares weights with the student, or has weights
            that are neither float32 nor float64.
    """
    make = getattr(objective, "companion", None)
    companion: nn.Module | None = None if make is None else make(models)
    if companion is None:
        return None
    name = f"the companion of {type(objective).__name__}"
    weights = list(companion.parameters())
    if not any(weight.requires_grad for weight in weights):
        raise ValueError(f"{name} has no weight that requires a gradient")
    if {id(weight) for weight in weights} & {id(weight) for weight in models.student.parameters()}:
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


def companion_betas(objective: Objective) -> tuple[float, float] | None:
    """Averaging factors of the companion's optimizer; None for those of the student's.

    Raises:
        ValueError: unless they are two numbers in [0, 1).
    """
    betas: tuple[float, float] | None = getattr(objective, "companion_betas", None)
    if betas is not None and not (len(betas) == 2 and all(0 <= beta < 1 for beta in betas)):
        raise ValueError(f"companion_betas must be two numbers in [0, 1), got {betas}")
    return betas


class SharedBuffers:
    """Keeps the buffers of the companion equal on all processes.

    Running statistics come from each process's own images: they are averaged. Vectors of a power
    iteration are equal anyway. What no forward pass has written to since the last time, like a
    frozen random projection, is left alone to the last bit.

    Args:
        world: this process among all.
        module: whose buffers; None: nothing to do.
    """

    def __init__(self, world: World, module: nn.Module | None) -> None:
        self.world = world
        self._module = None if world.size == 1 else module
        self._seen = self._marks()

    @torch.no_grad()
    def average(self) -> None:
        """Replace every real buffer that was written to by its mean over processes."""
        if self._module is None:
            return
        # Normalisations write to theirs unnoticed by the count of writes.
        norms = {
            id(buffer)
            for module in self._module.modules()
            if isinstance(module, _NormBase) and module.training
            for buffer in module.buffers()
        }
        marks = self._marks()
        changed = [
            buffer
            for name, buffer in self._module.named_buffers()
            if buffer.is_floating_point()
            and (id(buffer) in norms or marks[name] != self._seen.get(name))
        ]
        if changed:
            flat = torch.cat([buffer.reshape(-1).double() for buffer in changed])
            mean = sum_over_processes(self.world, flat) / self.world.size
            parts = mean.split([buffer.numel() for buffer in changed])
            for buffer, part in zip(changed, parts):
                buffer.copy_(part.reshape(buffer.shape))
        self._seen = self._marks()

    def _marks(self) -> dict[str, tuple[int, int]]:
        """Which tensor every buffer is, and how often it was written to."""
        found = () if self._module is None else self._module.named_buffers()
        return {name: (id(buffer), buffer._version) for name, buffer in found}


def frozen(model: Any, device: torch.device) -> Any:
    """`model` on the device, in eval mode and without gradients; what is no module as it is."""
    if not isinstance(model, nn.Module):
        return model
    return model.to(device).eval().requires_grad_(False)
