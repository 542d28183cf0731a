"""Distances between two batches of images, one number per image.

Every distance has `targets(images, labels, models)`, what is kept of the target (computed once,
without gradient, for the whole batch), and `__call__(estimate, targets, labels, models)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..registry import Registry
from .features import normalised_distance
from .lpips import LPIPS
from .objective import Models

Targets = dict[str, Tensor]  # tensors with one row per image


class Distance(Protocol):
    """A way to compare images; see the module docstring."""

    def targets(self, images: Tensor, labels: Tensor | None, models: Models) -> Targets:
        """What the comparison needs of the target images."""
        ...

    def __call__(
        self, estimate: Tensor, targets: Targets, labels: Tensor | None, models: Models
    ) -> Tensor:
        """(batch,) distances, differentiable in `estimate`."""
        ...


def _per_image(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)


class _Pixels:
    """Distances that compare pixels keep the target images themselves."""

    def targets(self, images: Tensor, labels: Tensor | None, models: Models) -> Targets:
        return {"pixels": images}


@dataclass(frozen=True)
class L2(_Pixels):
    """Mean over pixels of the squared difference."""

    def __call__(
        self, estimate: Tensor, targets: Targets, labels: Tensor | None, models: Models
    ) -> Tensor:
        return _per_image((estimate - targets["pixels"]) ** 2)


@dataclass(frozen=True)
class L1(_Pixels):
    """Mean over pixels of the absolute difference."""

    def __call__(
        self, estimate: Tensor, targets: Targets, labels: Tensor | None, models: Models
    ) -> Tensor:
        return _per_image((estimate - targets["pixels"]).abs())


@dataclass(frozen=True)
class PseudoHuber(_Pixels):
    """sqrt(|a - b|^2 + c^2) - c over the whole image, c = factor * sqrt(pixels * channels).

    Written as |a - b|^2 / (sqrt(|a - b|^2 + c^2) + c), which does not cancel for small
    differences. Source: Song & Dhariwal 2023 (iCT, arXiv:2310.14189), Section 3.3.
    """

    factor: float = 0.00054  # c per square root of the number of values, > 0

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"pseudo-Huber factor must be positive, got {self.factor}")

    def __call__(
        self, estimate: Tensor, targets: Targets, labels: Tensor | None, models: Models
    ) -> Tensor:
        squared = ((estimate - targets["pixels"]) ** 2).flatten(1).sum(1)
        c = self.factor * math.sqrt(estimate[0].numel())
        return squared / ((squared + c**2).sqrt() + c)


@dataclass(frozen=True)
class Norm(_Pixels):
    """sqrt(|a - b|^2 + c^2) - c over the whole image, c as it is; for c = 0 the norm |a - b|.

    A sum over pixels inside the root, no mean. At a = b the gradient is 0, also for c = 0, where
    the norm has none. Source: Geng et al. 2024 (ECT, arXiv:2406.14548) and its published code.
    """

    c: float = 0.0  # 0 ECT's CIFAR-10, 0.06 ECT's ImageNet-64, 1e-8 TCM's CIFAR-10; >= 0

    def __post_init__(self) -> None:
        if not self.c >= 0:
            raise ValueError(f"c must not be negative, got {self.c}")

    def __call__(
        self, estimate: Tensor, targets: Targets, labels: Tensor | None, models: Models
    ) -> Tensor:
        difference = (estimate - targets["pixels"]).flatten(1)
        if self.c == 0:
            return torch.linalg.vector_norm(difference, dim=1)
        squared = (difference**2).sum(1)
        return squared / ((squared + self.c**2).sqrt() + self.c)


@dataclass(frozen=True)
class TeacherFeatures:
    """Squared distance between features of the frozen teacher's encoder, plus pixels.

    The encoder's activations at the end of every resolution, at a fixed low noise level, are
    normalised over channels, compared, averaged over space and summed over channels and
    resolutions, as LPIPS does with VGG features. Needs no external weights. The pixel part is a
    pseudo-Huber distance.

    Source: the teacher-feature distance of SoundCTM (arXiv:2405.18503) in the form of LPIPS
    (arXiv:1801.03924).
    """

    sigma: float = 0.1  # noise level told to the encoder, > 0
    pixel_weight: float = 0.1  # weight of the pseudo-Huber part, >= 0
    factor: float = 0.03  # pseudo-Huber c per square root of the number of values, > 0

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and self.pixel_weight >= 0):
            raise ValueError(
                f"need sigma > 0 and pixel_weight >= 0, got sigma={self.sigma}, "
                f"pixel_weight={self.pixel_weight}"
            )

    def features(self, images: Tensor, labels: Tensor | None, models: Models) -> list[Tensor]:
        """Encoder activations in the teacher's dtype, one (batch, C_i, H_i, W_i) per resolution.

        Raises:
            ValueError: without a teacher.
        """
        teacher = models.teacher
        if teacher is None:
            raise ValueError("TeacherFeatures needs a teacher; use PseudoHuber without one")
        level = torch.full((len(images),), self.sigma, dtype=images.dtype, device=images.device)
        c_in = teacher.precond.c_in(level).reshape(-1, 1, 1, 1)
        return teacher.features(c_in * images, teacher.precond.c_noise(level), labels)

    def targets(self, images: Tensor, labels: Tensor | None, models: Models) -> Targets:
        """Target pixels and features."""
        kept = {"pixels": images}
        for i, feature in enumerate(self.features(images, labels, models)):
            kept[f"feature{i}"] = feature
        return kept

    def __call__(
        self, estimate: Tensor, targets: Targets, labels: Tensor | None, models: Models
    ) -> Tensor:
        total = self.pixel_weight * PseudoHuber(self.factor)(estimate, targets, labels, models)
        for i, feature in enumerate(self.features(estimate, labels, models)):
            total = total + normalised_distance(feature, targets[f"feature{i}"], None, 1e-6)
        return total


AnyDistance = PseudoHuber | Norm | L1 | L2 | TeacherFeatures | LPIPS
DISTANCES = Registry(
    "distance",
    {
        "l1": "ctm_fast.losses.distances:L1",
        "l2": "ctm_fast.losses.distances:L2",
        "norm": "ctm_fast.losses.distances:Norm",
        "pseudo_huber": "ctm_fast.losses.distances:PseudoHuber",
        "teacher_features": "ctm_fast.losses.distances:TeacherFeatures",
        "lpips": "ctm_fast.losses.lpips:LPIPS",
    },
)
