"""How noisy the gradients of an objective are at given weights."""

from __future__ import annotations

import copy
from typing import Any

import torch

from ctm_fast.data import batch_indices
from ctm_fast.denoiser import Denoiser
from ctm_fast.losses import Batch, Models, evaluate
from ctm_fast.rng import stream

from .worlds import World


def gradient_noise(
    objective: Any, student: Denoiser, world: World, progress: float, batches: int = 64
) -> float:
    """Trace of the covariance of a batch's gradient, over images, levels and noise.

    Args:
        objective: with one term.
        student: where the gradient is taken; nothing is trained.
        world: gives images and the batch size.
        progress: of the objective's curricula.
        batches: how many gradients it is estimated from; each objective sees the same ones.
    """
    data, size = world.dataset, world.batch_size
    labelled = student.label_dim > 0
    if getattr(objective, "wants_data", False):
        every = torch.arange(len(data))
        objective.attach(data.images(every), data.labels(every) if labelled else None)
    student = copy.deepcopy(student).requires_grad_(True)
    weights = list(student.parameters())
    mean: Any = 0.0
    square: Any = 0.0
    (term,) = objective.terms
    for step in range(batches):
        indices = batch_indices(step, size, len(data), seed=11)
        draw = objective.draw(size, data.shape, stream(11, step), progress)
        batch = Batch(data.images(indices), data.labels(indices) if labelled else None, draw)
        loss = evaluate(objective, batch, Models(student), progress)[term].mean()
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        flat = torch.cat([g.flatten().double() for g in found if g is not None])
        mean, square = mean + flat, square + flat.square()
    total = (square - mean * mean / batches) / (batches - 1)
    return float(total.sum())
