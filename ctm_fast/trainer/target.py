"""The target network: an average that is called, in half precision without a cast at every call."""

from __future__ import annotations

import copy
from functools import cached_property

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..losses.objective import Objective
from ..models.unet import UNet, blocks_of
from .ema import EMA


def target_decay(objective: Objective, progress: float) -> float | None:
    """The decay that the objective wants for its target in this step; None for the trainer's own.

    Raises:
        ValueError: unless it is in [0, 1).
    """
    ask = getattr(objective, "target_decay", None)
    decay: float | None = None if ask is None else ask(progress)
    if decay is not None and not 0 <= decay < 1:
        raise ValueError(f"target_decay must be in [0, 1), got {decay} at progress {progress}")
    return decay


class Target(EMA):
    """Average of the student that the objective calls, as `network`.

    Under autocast every call would cast the average's float32 weights again. `network` shares its
    other weights and buffers and keeps those of convolutions, and of the layers that a U-Net
    evaluates together, in the dtype of the computation: same bits, one cast per optimizer step.
    """

    @cached_property
    def network(self) -> Denoiser:
        """What is called; the average itself if it computes in the dtype of its weights."""
        model = self.model
        dtype = model.dtype
        # Autocast leaves float64 alone.
        if dtype is None or any(p.dtype != torch.float32 for p in model.parameters()):
            return model
        cast = {id(p): nn.Parameter(p.to(dtype), requires_grad=False) for p in self._cast}
        shared = [*model.parameters(), *model.buffers()]
        twin = copy.deepcopy(model, {id(t): cast.get(id(t), t) for t in shared})
        # The first weight tells a Denoiser whether its computation needs autocast.
        wide = nn.Parameter(torch.zeros(0, device=shared[0].device), requires_grad=False)
        twin.net.register_parameter("_float32", wide)
        self._halves: list[Tensor] = [cast[id(p)] for p in self._cast]
        if isinstance(twin.net, UNet):
            twin.net.pack()
        return twin

    @torch.no_grad()
    def refresh(self) -> None:
        """Let `network` follow the average, after an optimizer step."""
        if self.network is not self.model:
            torch._foreach_copy_(self._halves, self._cast)

    @cached_property
    def _cast(self) -> list[Tensor]:
        net = self.model.net
        layers = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
        weights: list[Tensor] = [p for layer in layers for p in layer.parameters()]
        if isinstance(net, UNet):
            names = ("affine", "affine_to")
            blocks = [*blocks_of(net.enc), *blocks_of(net.dec)]
            found = [getattr(block, name, None) for block in blocks for name in names]
            # Their biases are added to each other in float32.
            weights += [layer.weight for layer in found if layer is not None]
        return weights
