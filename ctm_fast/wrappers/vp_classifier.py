"""Classifiers that were trained on VP-scaled images, asked about images of noise level sigma."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..noise_embeddings import VPTime
from .calling import module_of, weights_dtype


@dataclass(frozen=True)
class LinearTime:
    """tau in [0, 1] with sigma(tau)^2 = exp((beta_max - beta_min) tau^2/2 + beta_min tau) - 1.

    Raises:
        ValueError: unless 0 < beta_min < beta_max.

    Source: Song et al. 2021 (score SDE), Eq. 33.
    """

    beta_min: float = 0.1  # slope of the schedule at tau = 0, > 0
    beta_max: float = 20.0  # at tau = 1

    def __post_init__(self) -> None:
        if not 0 < self.beta_min < self.beta_max < math.inf:
            raise ValueError(
                f"need 0 < beta_min < beta_max, got {self.beta_min} and {self.beta_max}"
            )

    def __call__(self, sigma: Tensor) -> Tensor:
        """tau, shape of `sigma`."""
        return VPTime(self.beta_max - self.beta_min, self.beta_min, steps=2)(sigma)


@dataclass(frozen=True)
class CosineTime:
    """tau in [0, 1) where cos((tau + offset) h) = cos(offset h) / sqrt(1 + sigma^2).

    h is pi/2 / (1 + offset). For classifiers of the cosine schedule, such as ADM's of 64x64 images.

    Raises:
        ValueError: unless offset >= 0.

    Source: Nichol & Dhariwal 2021, Eq. 17.
    """

    offset: float = 0.008  # of the cosine, >= 0

    def __post_init__(self) -> None:
        if not 0 <= self.offset < math.inf:
            raise ValueError(f"offset is {self.offset}; it must be at least 0")

    def __call__(self, sigma: Tensor) -> Tensor:
        """tau, shape of `sigma`."""
        h = math.pi / 2 / (1 + self.offset)
        # arccos loses half of the digits for small sigma.
        opposite = (math.sin(self.offset * h) ** 2 + sigma**2).sqrt()
        return torch.atan(opposite / math.cos(self.offset * h)) / h - self.offset


TIMES: dict[str, Callable[[Tensor], Tensor]] = {"linear": LinearTime(), "cosine": CosineTime()}


class VPClassifier(nn.Module):
    """classifier(x / sqrt(1 + sigma^2), scale tau(sigma)), to be asked about (x, sigma).

    Args:
        classifier: called with VP-scaled images (batch, C, H, W) and their times (batch,); gives
            logits (batch, classes). Images come in its weights' dtype, times in float32 at least.
        time: "linear", "cosine", or a function from sigma to tau. The exact index of one of ADM's
            1000 levels is `ctm_fast.noise_embeddings.DiscreteTime("cosine")` with scale=1.
        scale: of the time. ADM's classifiers are trained with the index 0, ..., 999 of the level;
            CTM's released code passes tau itself, which is scale=1.

    Raises:
        ValueError: for an unknown time, or a scale that is not positive.

    Source: Kim et al. 2024 (CTM), released code.
    """

    def __init__(
        self,
        classifier: Callable[..., Tensor],
        time: str | Callable[[Tensor], Tensor] = "cosine",
        scale: float = 999.0,
    ) -> None:
        super().__init__()
        if isinstance(time, str) and time not in TIMES:
            raise ValueError(
                f"unknown time {time!r}; choose from {tuple(TIMES)} or give a function"
            )
        if not 0 < scale < math.inf:
            raise ValueError(f"scale is {scale}; it must be positive")
        self.time: Any = TIMES[time] if isinstance(time, str) else time
        self.scale, self.classifier = float(scale), classifier
        self.owner = None if isinstance(classifier, nn.Module) else module_of(classifier)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Logits (batch, classes).

        Args:
            x: (batch, C, H, W) images plus noise of standard deviation sigma.
            sigma: (batch,) levels.
        """
        exact = sigma.to(torch.promote_types(sigma.dtype, torch.float32))
        shrink = (1 + exact**2).rsqrt().reshape(-1, *[1] * (x.ndim - 1))
        # Cast after the scaling: half precision would lose the small gradients at high levels.
        own = weights_dtype(self.classifier) or x.dtype
        time = (self.scale * self.time(exact)).to(torch.promote_types(own, torch.float32))
        logits: Tensor = self.classifier((x * shrink).to(own), time)
        return logits

    def extra_repr(self) -> str:
        """Time and scale."""
        return f"time={self.time}, scale={self.scale:g}"
