"""A learned weight for every noise level, which makes all of them count alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..rng import stream


class LearnedWeight(nn.Module):
    """w(sigma) of the loss e^w l - w, whose optimum is w = -ln E[l | sigma].

    A linear function, 0 at first, of cosines of ln(sigma)/4 with fixed random frequencies and
    phases, together of mean square 1.

    Args:
        features: number of cosines, >= 1.
        seed: of frequencies and phases.

    Raises:
        ValueError: without features.

    Source: Karras et al. 2024 (EDM2, arXiv:2312.02696), Appendix B.2; Lu & Song 2024 (sCM,
    arXiv:2410.11081), Section 4.2, which uses the same network.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, features: int = 128, seed: int = 0) -> None:
        super().__init__()
        if features < 1:
            raise ValueError(f"features must be at least 1, got {features}")
        generator = stream(seed, features)
        normal = torch.randn(features, generator=generator)
        uniform = torch.rand(features, generator=generator)
        self.register_buffer("frequencies", 2 * math.pi * normal)
        self.register_buffer("phases", 2 * math.pi * uniform)
        self.weight = nn.Parameter(torch.zeros(features))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, sigma: Tensor) -> Tensor:
        """w, (batch,) in the dtype of the weights; `sigma` is (batch,), > 0."""
        level = (sigma.log() / 4).to(self.weight.dtype)
        waves = (level[:, None] * self.frequencies + self.phases).cos()
        return waves @ self.weight * math.sqrt(2 / len(self.weight)) + self.bias


def weighted(loss: Tensor, weight: Tensor) -> Tensor:
    """e^w loss - w, (batch,) in the dtype of `loss`; may be negative."""
    weight = weight.to(loss.dtype)
    return weight.exp() * loss - weight
