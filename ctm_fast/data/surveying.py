"""What a data set holds, as far as reading some of its images tells."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .dataset import SIGMA_DATA_IMAGES, ImageDataset, spread

HASHED = 60_000  # sets up to this size are searched for repeated images
_CHUNK = 256  # images read at once


def survey(dataset: ImageDataset, images: int = SIGMA_DATA_IMAGES) -> dict[str, Any]:
    """Facts about a data set; JSON types only.

    Pixels are measured on at most `images` images spread over the set, in units of [-1, 1]; with
    the default, `sigma_data` is what training uses. Sets of at most 60000 images are read whole
    and searched for images that repeat an earlier one exactly.

    Returns:
        format, name, images, shape, label, pixels, repeated, and what the data set adds.

    Raises:
        ValueError: for `images` below 1, or an image that cannot be read.
    """
    if images < 1:
        raise ValueError(f"images must be at least 1, got {images}")
    whole = len(dataset) <= HASHED
    measured = torch.zeros(len(dataset), dtype=torch.bool)
    measured[spread(len(dataset), images)] = True
    wanted = torch.arange(len(dataset)) if whole else spread(len(dataset), images)
    moments = _Moments(dataset.shape[0], dataset.white)
    seen: set[bytes] = set()
    with tqdm(total=len(wanted), unit="image", delay=2, leave=False) as progress:
        for indices in wanted.split(_CHUNK):
            pixels = dataset.pixels(indices)
            moments.add(pixels[measured[indices]])
            if whole:
                seen.update(hashlib.sha256(image.numpy().tobytes()).digest() for image in pixels)
            progress.update(len(indices))
    return {
        "format": dataset.format,
        "name": dataset.name,
        "images": len(dataset),
        "shape": list(dataset.shape),
        "label": _label(dataset),
        "pixels": moments.summary(),
        "repeated": len(dataset) - len(seen) if whole else None,
        **dataset.details(),
    }


class _Moments:
    """Range, mean and standard deviation of scaled pixels, exact in whole numbers."""

    def __init__(self, channels: int, white: int) -> None:
        self.white = white
        self.images = self.number = 0
        self.lowest, self.highest = white, 0
        self.total = torch.zeros(channels, dtype=torch.int64)
        self.square = torch.zeros(channels, dtype=torch.int64)

    def add(self, pixels: Tensor) -> None:
        if len(pixels) == 0:
            return
        self.images += len(pixels)
        self.number += pixels[:, 0].numel()
        self.lowest = min(self.lowest, int(pixels.min()))
        self.highest = max(self.highest, int(pixels.max()))
        values = pixels.long()
        self.total += values.sum((0, 2, 3))
        self.square += values.square().sum((0, 2, 3))

    def summary(self) -> dict[str, Any]:
        half = self.white / 2
        number, channels = self.number * len(self.total), self.total.tolist()
        total, square = int(self.total.sum()), int(self.square.sum())
        return {
            "measured_images": self.images,
            "stored": f"0 to {self.white}",
            "lowest": self.lowest,
            "highest": self.highest,
            "mean": total / number / half - 1,
            "channel_means": [each / self.number / half - 1 for each in channels],
            "sigma_data": ((square * number - total * total) / number**2) ** 0.5 / half,
        }


def _label(dataset: ImageDataset) -> dict[str, Any]:
    if not dataset.label_dim:
        return {"kind": "none"}
    if not dataset.num_classes:
        return {"kind": "vectors", "dim": dataset.label_dim}
    labels = dataset.labels(torch.arange(len(dataset)))
    assert labels is not None
    found = Counter(labels.tolist())
    names = dataset.class_names or [str(index) for index in range(dataset.num_classes)]
    counts = [found.get(index, 0) for index in range(dataset.num_classes)]
    return {
        "kind": "classes",
        "classes": dataset.num_classes,
        "empty": counts.count(0),
        "smallest": min(counts),
        "largest": max(counts),
        "names": list(names),
        "counts": counts,
    }
