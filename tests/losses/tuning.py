"""Short runs of ECT and SCT on the mixture in one dimension."""

from functools import cache
from typing import Any

import torch

from ctm_fast.denoiser import Denoiser
from ctm_fast.densities import KarrasUniform
from ctm_fast.gaps import SigmoidGap
from ctm_fast.losses import L2, Batch, Models, evaluate
from ctm_fast.precond import EDM, Preconditioning
from ctm_fast.rng import stream

from . import oracle

# In one dimension a norm asks for the median of its targets, a square for their mean. The levels
# reach 80, where a student is judged.
OPTIONS: dict[str, Any] = {
    "density": KarrasUniform(0.0, 1.0),
    "gap": SigmoidGap(stages=6, smooth=True),
    "distance": L2(),
}


def batch(objective: Any, step: int, size: int, progress: float) -> Batch:
    """Images of the mixture with the random numbers of a step."""
    draw = objective.draw(size, (1, 1, 1), stream(1, step), progress)
    return Batch(oracle.draws(size, step).float(), None, draw)


@cache
def tuned(objective: Any, steps: int = 800, size: int = 128, lr: float = 1e-2) -> Denoiser:
    """A student with EDM's scalings after a run with a learning rate that falls to 0; shared."""
    student = Denoiser(oracle.Curve(64), Preconditioning(EDM(oracle.STD)), kind="consistency")
    optimizer = torch.optim.Adam(student.parameters(), lr, betas=(0.9, 0.99))
    for step in range(steps):
        progress = step / steps
        optimizer.param_groups[0]["lr"] = lr * (1 - progress)
        losses = evaluate(
            objective, batch(objective, step, size, progress), Models(student), progress
        )
        optimizer.zero_grad()
        losses["consistency"].mean().backward()
        optimizer.step()
    return student


def gradient_noise(objective: Any, student: Denoiser, progress: float, count: int = 40) -> float:
    """Trace of the covariance of the gradient over `count` batches of 256."""
    gradients = []
    for step in range(count):
        drawn = batch(objective, 9000 + step, 256, progress)
        loss = evaluate(objective, drawn, Models(student), progress)["consistency"].mean()
        found = torch.autograd.grad(loss, list(student.parameters()))
        gradients.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(gradients).var(0).sum().item()
