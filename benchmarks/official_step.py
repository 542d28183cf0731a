"""CTM's generator step in the published arrangement: everything inside every microbatch.

Written from the formulas of Kim et al. 2024 (CTM), Sections 3.1 to 3.3: the teacher's solve and the
two jumps of the target run again for every microbatch and every network call is a call of its own;
the adaptive weight takes two gradients to the last layer before the backward pass of the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ctm_fast.losses import Batch

from .official_model import OfficialModel

EPS, CAP = 1e-4, 1e4  # of the adaptive weight
HUBER = 0.00054


def squared(estimate: Tensor, target: Tensor) -> Tensor:
    """Mean over pixels of the squared difference, (batch,)."""
    return ((estimate - target) ** 2).flatten(1).mean(1)


def pseudo_huber(estimate: Tensor, target: Tensor) -> Tensor:
    """sqrt(|a - b|^2 + c^2) - c over the whole image, (batch,), without its cancellation."""
    total = ((estimate - target) ** 2).flatten(1).sum(1)
    c = HUBER * estimate[0].numel() ** 0.5
    return total / ((total + c**2).sqrt() + c)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": squared,
    "pseudo_huber": pseudo_huber,
}


@dataclass
class OfficialStep:
    """One generator step; afterwards the gradient lies in `p.grad` of the student's weights.

    Attributes:
        student, target, teacher: the three networks with their scalings.
        parameters: of the student.
        last_layer: weight of the layer that the adaptive weight is measured at.
        sigmas: (num_scales,) the grid, index 0 is sigma_max.
        microbatch: images per backward pass.
        distance: key of DISTANCES.
    """

    student: OfficialModel
    target: OfficialModel
    teacher: OfficialModel
    parameters: Sequence[nn.Parameter]
    last_layer: Tensor
    sigmas: Tensor
    microbatch: int = 11
    distance: str = "pseudo_huber"

    def __call__(self, batch: Batch) -> Tensor:
        """Mean loss of the whole batch, ().

        Args:
            batch: images, labels and the random numbers of the step, as `CTM.draw` names them.
        """
        for p in self.parameters:
            p.grad = None
        total = torch.zeros((), device=batch.images.device)
        for start in range(0, len(batch), self.microbatch):
            part = batch.slice(start, min(start + self.microbatch, len(batch)))
            loss = self._loss(part) * len(part) / len(batch)
            loss.backward()
            total += loss.detach()
        return total

    def _loss(self, part: Batch) -> Tensor:
        images, labels, draw = part.images, part.labels, part.draw
        t, u, s = (self.sigmas[draw[f"{name}_index"]] for name in "tus")
        low = torch.ones_like(s) * self.sigmas[-1]
        x_t = images + t.reshape(-1, 1, 1, 1) * draw["noise"]
        estimate = self.student.jump(x_t, t, s, labels)
        estimate = self.target.jump(estimate, s, low, labels)
        with torch.no_grad():
            x_u = self.teacher.solve(x_t, self.sigmas, draw["t_index"], draw["num_steps"], labels)
            target = self.student.jump(x_u, u, s, labels)
            target = self.target.jump(target, s, low, labels)
        consistency = DISTANCES[self.distance](estimate, target)
        denoising = self._denoising(images, draw["dsm_sigma"], draw["dsm_noise"], labels)
        weight = self._weight(consistency.mean(), denoising.mean())
        return consistency.mean() + weight * denoising.mean()

    def _denoising(self, images: Tensor, sigma: Tensor, noise: Tensor, labels: Any) -> Tensor:
        x = images + sigma.reshape(-1, 1, 1, 1) * noise
        denoised = self.student.denoise(x, sigma, labels, sigma)
        sd = self.student.sigma_data
        weight = (sigma**2 + sd**2) / (sigma * sd) ** 2
        return (weight.reshape(-1, 1, 1, 1) * (denoised - images) ** 2).flatten(1).mean(1)

    def _weight(self, reference: Tensor, other: Tensor) -> Tensor:
        norms = [
            torch.autograd.grad(loss, self.last_layer, retain_graph=True)[0].norm()
            for loss in (reference, other)
        ]
        return (norms[0] / (norms[1] + EPS)).clamp(0, CAP).detach()
