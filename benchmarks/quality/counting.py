"""How many network evaluations a training run makes, counted while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import register_module_forward_hook

from ctm_fast.models import UNet

from .points import PointsNet

NETWORKS = (UNet, PointsNet)
BACKWARD = 2  # a backward pass costs about two forward passes
TANGENT = 1  # a derivative along a direction about one more


@dataclass
class Evaluations:
    """Images that passed through any network, in units of a forward pass of one image."""

    number: float = 0.0

    def seen(self, images: Tensor) -> None:
        """Count one call of a network, by its output."""
        factor = 1.0 + TANGENT * _has_tangent(images)
        if torch.is_grad_enabled() and images.requires_grad:
            factor += BACKWARD
        self.number += factor * len(images)


@contextmanager
def counted() -> Iterator[Evaluations]:
    """Counts every call of a network of `NETWORKS` inside, students, targets and teachers alike."""
    found = Evaluations()

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, NETWORKS) and isinstance(output, Tensor):
            found.seen(output)

    handle = register_module_forward_hook(hook)
    try:
        yield found
    finally:
        handle.remove()


def _has_tangent(images: Tensor) -> bool:
    try:
        return forward_ad.unpack_dual(images).tangent is not None
    except RuntimeError:  # outside any derivative
        return False
