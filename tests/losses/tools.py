"""Small networks and batches for the tests of objectives."""

from typing import Any

import torch
from torch import Tensor

from ctm_fast.denoiser import Denoiser
from ctm_fast.losses import Batch
from ctm_fast.rng import stream
from tests.analytic import ConstantNet


def constant(number: float, destination: bool) -> Denoiser:
    """Denoiser whose network answers one number everywhere."""
    return Denoiser(ConstantNet(number, destination))


def drawn(objective: Any, images: Tensor, labels: Tensor | None = None, step: int = 0) -> Batch:
    """Batch with the random numbers of one step."""
    shape = tuple(images.shape[1:])
    return Batch(images, labels, objective.draw(len(images), shape, stream(0, step)))


def label_batch(size: int) -> Tensor:
    """Labels 0, 1, ..., repeating over ten classes."""
    return torch.arange(size) % 10
