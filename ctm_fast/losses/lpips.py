"""LPIPS with a VGG16 backbone, from local weight files."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..inference.freeze import fast_dtype
from .features import normalised_distance
from .objective import Models

# Positions of the convolutions in torchvision's `features`, stage by stage; a stage begins with
# pooling, except the first, and its last activation is compared.
STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
# Mean and standard deviation of ImageNet's pixels, for images in [-1, 1].
SHIFT, SPREAD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPS = 1e-10
PARTS = ("weight", "bias")
AT_ONCE = 32  # target images per pass; their activations at 224 pixels are large
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class LPIPS:
    """LPIPS with a VGG16 backbone, from local files.

    Images below 256 pixels are resized to 224 (bilinear) and the backbone pools by averages, as
    in sony/ctm and openai/consistency_models. Nothing is ever downloaded. Targets are kept as
    features, which at 224 pixels are 6 million numbers per image.

    Source: Zhang et al. 2018, arXiv:1801.03924; average pooling: `replace_pooling=True` in both
    published codes.

    Raises:
        ValueError: for an unknown dtype; on first use, for files that lack something.
    """

    weights: str = ""  # path of a torchvision VGG16 state dict
    # Path of the channel weights, `lin0.model.1.weight` to `lin4...` or a list of them. Empty: in
    # the file `weights`, else the file inside an installed `lpips` package (extra `gan`).
    heads: str = ""
    dtype: str = "auto"  # of the backbone: float32 | bfloat16 | auto, bfloat16 where that is fast

    def __post_init__(self) -> None:
        if self.dtype not in ("auto", *DTYPES):
            raise ValueError(f"unknown dtype {self.dtype!r}; choose from {['auto', *DTYPES]}")

    def targets(self, images: Tensor, labels: Tensor | None, models: Models) -> dict[str, Tensor]:
        """Features of the target images, one tensor per stage."""
        network = self._network(images.device)
        parts = [network.features(part) for part in images.split(AT_ONCE)]
        return {f"vgg{k}": torch.cat(stage) for k, stage in enumerate(zip(*parts))}

    def __call__(
        self,
        estimate: Tensor,
        targets: dict[str, Tensor],
        labels: Tensor | None,
        models: Models,
    ) -> Tensor:
        network = self._network(estimate.device)
        values = [
            normalised_distance(feature, targets[f"vgg{k}"], head, EPS)
            for k, (feature, head) in enumerate(zip(network.features(estimate), network.heads))
        ]
        return torch.stack(values).sum(0)

    def _network(self, device: torch.device) -> _VGG:
        dtype = fast_dtype(device) if self.dtype == "auto" else DTYPES[self.dtype]
        return _load(self.weights, self.heads, dtype, device)


class _VGG:
    """The backbone in one dtype, and the heads in float32; nothing of it is trained."""

    def __init__(
        self, state: Mapping[str, Tensor], heads: list[Tensor], dtype: torch.dtype, device: Any
    ) -> None:
        with torch.inference_mode(False):
            self.layers = [
                [[_placed(state, i, name, dtype, device) for name in PARTS] for i in stage]
                for stage in STAGES
            ]
            self.heads = [head.flatten().to(device, torch.float32) for head in heads]
            size = (1, 3, 1, 1)
            self.shift, self.spread = (
                torch.tensor(v, device=device).reshape(size) for v in (SHIFT, SPREAD)
            )
        self.dtype = dtype

    def features(self, images: Tensor) -> list[Tensor]:
        """Activations at the end of every stage, (batch, C_i, H_i, W_i)."""
        x = ((_resized(images) - self.shift) / self.spread).to(self.dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        found: list[Tensor] = []
        for stage in self.layers:
            if found:
                x = functional.avg_pool2d(x, 2)
            for weight, bias in stage:
                x = functional.conv2d(x, weight, bias, padding=1).relu_()
            found.append(x)
        return found


def _resized(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    if images.shape[-1] >= 256:
        return images
    return functional.interpolate(images, (224, 224), mode="bilinear", align_corners=False)


def _placed(
    state: Mapping[str, Tensor], index: int, name: str, dtype: torch.dtype, device: Any
) -> Tensor:
    value = state[f"features.{index}.{name}"].detach().to(device, dtype)
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value


@lru_cache(maxsize=4)
def _load(weights: str, heads: str, dtype: torch.dtype, device: torch.device) -> _VGG:
    if not weights:
        raise ValueError(
            "LPIPS needs weights=PATH of a torchvision VGG16 state dict; nothing is downloaded "
            "inside training"
        )
    state = torch.load(weights, map_location="cpu", weights_only=True)
    for stage in STAGES:
        for index in stage:
            for name in PARTS:
                if f"features.{index}.{name}" not in state:
                    raise ValueError(
                        f"{weights} is not a VGG16 state dict: it lacks features.{index}.{name}"
                    )
    found = _heads(torch.load(heads, map_location="cpu", weights_only=True) if heads else state)
    if found is None and not heads:
        package = _package_file()
        if package is not None:
            found = _heads(torch.load(package, map_location="cpu", weights_only=True))
    if found is None:
        raise ValueError(
            f"no weights of LPIPS's channels in {heads or weights}: give heads=PATH of a file "
            "with lin0.model.1.weight to lin4.model.1.weight, or install the extra 'gan' "
            "(pip install 'ctm_fast[gan]'), whose package 'lpips' has them; PseudoHuber and "
            "TeacherFeatures need none"
        )
    return _VGG(state, found, dtype, device)


def _heads(data: Any) -> list[Tensor] | None:
    if isinstance(data, Mapping):
        names = [f"lin{k}.model.1.weight" for k in range(len(STAGES))]
        data = [data[name] for name in names if name in data]
    return list(data) if len(data) == len(STAGES) else None


def _package_file() -> Path | None:
    spec = importlib.util.find_spec("lpips")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "weights" / "v0.1" / "vgg.pth"
    return path if path.exists() else None
