"""Distances between two batches of images, one number per image.

Every distance has `targets(images, labels, models)`, what is kept of the target (computed once,
without gradient, for the whole batch), and `__call__(estimate, targets, labels, models)`.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..registry import Registry
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
        """Normalised encoder activations, one (batch, C_i, H_i, W_i) float32 per resolution.

        Raises:
            ValueError: without a teacher.
        """
        teacher = models.teacher
        if teacher is None:
            raise ValueError("TeacherFeatures needs a teacher; use PseudoHuber without one")
        level = torch.full((len(images),), self.sigma, dtype=images.dtype, device=images.device)
        c_in = teacher.precond.c_in(level).reshape(-1, 1, 1, 1)
        maps = teacher.features(c_in * images, teacher.precond.c_noise(level), labels)
        return [functional.normalize(m.float(), dim=1, eps=1e-6) for m in maps]

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
            difference = (feature - targets[f"feature{i}"]) ** 2
            total = total + difference.sum(1).flatten(1).mean(1)
        return total


@dataclass(frozen=True)
class LPIPS:
    """LPIPS with a VGG16 backbone, through the `lpips` package (extra `gan`).

    Images below 256 pixels are resized to 224 (bilinear) and the backbone pools by averages, as
    in sony/ctm and openai/consistency_models. Nothing is ever downloaded: `weights` is a local
    file with the backbone's state dict.

    Source: Zhang et al. 2018, arXiv:1801.03924; average pooling: `replace_pooling=True` in both
    published codes.
    """

    weights: str = ""  # path of a torchvision VGG16 state dict

    def _network(self) -> Any:
        cached = _LPIPS_NETWORKS.get(self.weights)
        if cached is None:
            cached = _LPIPS_NETWORKS[self.weights] = _load_lpips(self.weights)
        return cached

    def targets(self, images: Tensor, labels: Tensor | None, models: Models) -> Targets:
        """Resized target images."""
        return {"pixels": self._resized(images)}

    def __call__(
        self, estimate: Tensor, targets: Targets, labels: Tensor | None, models: Models
    ) -> Tensor:
        network = self._network().to(estimate.device)
        return network(self._resized(estimate), targets["pixels"]).flatten()

    @staticmethod
    def _resized(images: Tensor) -> Tensor:
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        if images.shape[-1] >= 256:
            return images
        return functional.interpolate(images, (224, 224), mode="bilinear", align_corners=False)


_LPIPS_NETWORKS: dict[str, Any] = {}


def _load_lpips(weights: str) -> Any:
    try:
        lpips = importlib.import_module("lpips")
    except ImportError as error:
        raise ValueError(
            "the LPIPS distance needs the packages of the extra 'gan' "
            "(pip install 'ctm_fast[gan]'); PseudoHuber and TeacherFeatures need none"
        ) from error
    if not weights:
        raise ValueError(
            "LPIPS needs weights=PATH of a torchvision VGG16 state dict; nothing is downloaded "
            "inside training"
        )
    network = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    state = torch.load(weights, map_location="cpu", weights_only=True)
    features = {k.removeprefix("features."): v for k, v in state.items() if "features." in k}
    slices = [getattr(network.net, f"slice{i}") for i in range(1, network.net.N_slices + 1)]
    own = {name: p for part in slices for name, p in part.state_dict(keep_vars=True).items()}
    missing = sorted(set(own) - set(features))
    if missing:
        raise ValueError(f"{weights} is not a VGG16 state dict: it lacks features.{missing[0]}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(features[name])
    for part in slices:
        for name, layer in part.named_children():
            if isinstance(layer, torch.nn.MaxPool2d):
                setattr(part, name, torch.nn.AvgPool2d(layer.kernel_size, layer.stride))
    return network.eval().requires_grad_(False)


AnyDistance = PseudoHuber | L1 | L2 | TeacherFeatures | LPIPS
DISTANCES = Registry(
    "distance",
    {
        "l1": "ctm_fast.losses.distances:L1",
        "l2": "ctm_fast.losses.distances:L2",
        "pseudo_huber": "ctm_fast.losses.distances:PseudoHuber",
        "teacher_features": "ctm_fast.losses.distances:TeacherFeatures",
        "lpips": "ctm_fast.losses.distances:LPIPS",
    },
)
