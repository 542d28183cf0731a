"""What a data set is here: scaled images and labels, read by index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

SIGMA_DATA_IMAGES = 4096  # images from which sigma_data is measured, spread evenly over the set


class ImageDataset(ABC):
    """Images in [-1, 1] and their labels, read by index in any order.

    Args:
        name: short name for reports and checkpoints.
        shape: (C, H, W) of every image.
        labels: None, (N,) integer classes, or (N, label_dim) real vectors.
        num_classes: number of classes; one more than the largest label when not given.
        white: integer pixel value that becomes +1; 0 becomes -1.

    Raises:
        ValueError: for labels that are not in [0, num_classes).
    """

    format = "images in memory"  # what a report calls this kind of source
    flippable = True  # False where a mirror image is not an image of the set
    class_names: tuple[str, ...] = ()  # of class 0, 1, ...; empty where they have none

    def __init__(
        self,
        name: str,
        shape: tuple[int, int, int],
        labels: Tensor | None = None,
        num_classes: int | None = None,
        white: int = 255,
    ) -> None:
        self.name = name
        self.shape = shape
        self.white = white
        self.num_classes = 0
        self._labels = labels
        if labels is not None and labels.ndim == 1:
            self._labels = labels.to(torch.int64)
            self.num_classes = _checked_num_classes(self._labels, num_classes)
        elif num_classes:
            raise ValueError(f"num_classes={num_classes} needs one integer label per image")

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def pixels(self, indices: Tensor) -> Tensor:
        """Raw pixels (b, C, H, W) uint8 in [0, white]; `indices` (b,) int64 are in range."""

    def images(self, indices: Tensor | Sequence[int]) -> Tensor:
        """Images scaled to [-1, 1], (b, C, H, W) float32.

        Raises:
            ValueError: for an index outside [0, len(self)).
        """
        return self.pixels(self._checked(indices)).float().div_(self.white / 2).sub_(1)

    def labels(self, indices: Tensor | Sequence[int]) -> Tensor | None:
        """Classes (b,) int64 or label vectors (b, label_dim) float32; None if there are none.

        Raises:
            ValueError: for an index outside [0, len(self)).
        """
        indices = self._checked(indices)
        return None if self._labels is None else self._labels[indices]

    @property
    def label_dim(self) -> int:
        """Width of a network's label input: number of classes, length of the vectors, or 0."""
        if self._labels is not None and self._labels.ndim == 2:
            return self._labels.shape[1]
        return self.num_classes

    @cached_property
    def sigma_data(self) -> float:
        """Standard deviation of the scaled pixels, from at most 4096 images spread over the set."""
        return measured_sigma_data(self)

    def info(self) -> dict[str, Any]:
        """What a report says about the set; JSON types only."""
        names = {"class_names": list(self.class_names)} if self.class_names else {}
        return {
            "name": self.name,
            "images": len(self),
            "shape": list(self.shape),
            "classes": self.num_classes,
            "sigma_data": round(self.sigma_data, 6),
            **names,
            **self.details(),
        }

    def details(self) -> dict[str, Any]:
        """What `info` says beyond what all sets have; JSON types only."""
        return {}

    def _checked(self, indices: Tensor | Sequence[int]) -> Tensor:
        indices = torch.as_tensor(indices, dtype=torch.int64, device="cpu").reshape(-1)
        outside = (indices < 0) | (indices >= len(self))
        if outside.any():
            value = int(indices[outside][0])
            raise ValueError(f"image {value} of {self.name!r}: allowed are 0 to {len(self) - 1}")
        return indices


class ArrayDataset(ImageDataset):
    """Images held in memory.

    Args:
        images: (N, C, H, W) uint8 in [0, white], tensor or array.
        labels: None, (N,) integer classes, or (N, label_dim) real vectors.
        name: short name for reports and checkpoints.
        num_classes: number of classes; one more than the largest label when not given.
        white: pixel value that becomes +1.

    Raises:
        ValueError: for another dtype or shape, pixels above `white`, or labels of another length.
    """

    def __init__(
        self,
        images: Tensor | np.ndarray,
        labels: Tensor | np.ndarray | None = None,
        name: str = "array",
        num_classes: int | None = None,
        white: int = 255,
    ) -> None:
        pixels = torch.as_tensor(images)
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.numel() == 0:
            raise ValueError(
                f"images must be (N, C, H, W) uint8 and not empty, got {tuple(pixels.shape)} "
                f"{pixels.dtype}"
            )
        if int(pixels.max()) > white:
            raise ValueError(f"pixel value {int(pixels.max())} is above white={white}")
        if labels is not None:
            labels = torch.as_tensor(labels)
            if len(labels) != len(pixels):
                raise ValueError(f"{len(labels)} labels for {len(pixels)} images")
        _, channels, height, width = pixels.shape
        super().__init__(name, (channels, height, width), labels, num_classes, white)
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def pixels(self, indices: Tensor) -> Tensor:
        return self._pixels[indices]


class Flipped(ImageDataset):
    """A data set followed by the mirror image of each of its images; twice as long.

    Raises:
        ValueError: for a set whose mirror images do not belong to it (digits).
    """

    def __init__(self, inner: ImageDataset) -> None:
        if not inner.flippable:
            raise ValueError(f"flip=True makes no sense for {inner.name!r}; allowed is flip=False")
        super().__init__(inner.name, inner.shape, white=inner.white)
        self.inner = inner
        self.format = inner.format
        self.num_classes, self.class_names = inner.num_classes, inner.class_names

    def __len__(self) -> int:
        return 2 * len(self.inner)

    def pixels(self, indices: Tensor) -> Tensor:
        pixels = self.inner.pixels(indices % len(self.inner))
        mirrored = (indices >= len(self.inner)).view(-1, 1, 1, 1)
        return torch.where(mirrored, pixels.flip(-1), pixels)

    def labels(self, indices: Tensor | Sequence[int]) -> Tensor | None:
        return self.inner.labels(self._checked(indices) % len(self.inner))

    @property
    def label_dim(self) -> int:
        return self.inner.label_dim

    @cached_property
    def sigma_data(self) -> float:
        return self.inner.sigma_data

    def details(self) -> dict[str, Any]:
        return {**self.inner.details(), "flip": True}


def spread(size: int, count: int) -> Tensor:
    """At most `count` indices spread evenly over [0, size), ascending, int64."""
    count = min(count, size)
    return torch.arange(count, dtype=torch.int64) * size // count


def measured_sigma_data(dataset: ImageDataset, count: int = SIGMA_DATA_IMAGES) -> float:
    """Standard deviation over all pixels of at most `count` images, in units of [-1, 1]."""
    # Whole numbers, so neither the order nor the count of the images costs accuracy.
    total = total_square = number = 0
    for indices in spread(len(dataset), count).split(256):
        pixels = dataset.pixels(indices).long()
        total += int(pixels.sum())
        total_square += int(pixels.square().sum())
        number += pixels.numel()
    variance = (total_square * number - total * total) / number**2
    return variance**0.5 / (dataset.white / 2)


def _checked_num_classes(labels: Tensor, num_classes: int | None) -> int:
    largest = int(labels.max())
    num_classes = largest + 1 if num_classes is None else num_classes
    if int(labels.min()) < 0 or largest >= num_classes:
        raise ValueError(
            f"labels from {int(labels.min())} to {largest}: allowed are 0 to {num_classes - 1}"
        )
    return num_classes
