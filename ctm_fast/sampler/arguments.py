"""Checks of what a caller asks a sampler for: how many images, which labels, which noise."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from .seeding import listed_seeds


def image_shape(model: Any) -> tuple[int, int, int]:
    """(C, H, W) of the model's images."""
    return int(model.img_channels), int(model.img_resolution), int(model.img_resolution)


def number_of_images(
    num: int | None, labels: Any, seed: int | Iterable[int], noise: Tensor | None
) -> int:
    """How many images are asked for: the one number that all arguments agree on.

    Raises:
        ValueError: if nothing says how many, two arguments disagree, or the number is not >= 1.
    """
    said = {
        "num": num,
        "labels": len(labels) if is_many(labels) else None,
        "seed": len(listed_seeds(seed)) if is_many(seed) else None,
        "noise": None if noise is None else len(noise),
    }
    counts = {name: count for name, count in said.items() if count is not None}
    if not counts:
        if labels is None:
            raise ValueError("say how many images: num, or one label, seed or noise per image")
        return 1
    if len(set(counts.values())) > 1:
        raise ValueError(f"arguments disagree about the number of images: {counts}")
    count = next(iter(counts.values()))
    if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
        raise ValueError(f"the number of images is {count!r}; it must be an integer, at least 1")
    return int(count)


def is_many(value: Any) -> bool:
    """True for a list, tuple, array or tensor with at least one dimension."""
    return hasattr(value, "__len__") and getattr(value, "ndim", 1) > 0


def checked_labels(labels: Any, num: int, label_dim: int) -> Tensor | None:
    """Classes (num,) int64 on the CPU, or None for an unconditional model.

    A conditional model without labels gets the classes 0, 1, ..., label_dim - 1 repeating.

    Args:
        labels: None, one integer for all images, or one integer per image.
        num: number of images.
        label_dim: number of classes; 0 for an unconditional model.

    Raises:
        ValueError: for labels of an unconditional model, of the wrong length, not integers, or
            outside [0, label_dim).
    """
    if label_dim == 0:
        if labels is not None:
            raise ValueError(f"labels {labels!r} for an unconditional model; it takes none")
        return None
    if labels is None:
        return torch.arange(num) % label_dim
    try:
        classes = torch.as_tensor(labels).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"labels {labels!r} are not integers") from error
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise ValueError(f"labels are {classes.dtype}; they must be integers, one per image")
    if classes.ndim == 0:
        classes = classes.expand(num)
    if classes.shape != (num,):
        raise ValueError(f"labels have shape {tuple(classes.shape)}; need ({num},)")
    outside = classes[(classes < 0) | (classes >= label_dim)]
    if len(outside):
        raise ValueError(f"label {int(outside[0])} is outside [0, {label_dim})")
    return classes.to(torch.int64)


def checked_noise(noise: Tensor, num: int, shape: tuple[int, ...]) -> Tensor:
    """The given noise.

    Raises:
        ValueError: unless it is a floating tensor of shape (num, *shape).
    """
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        raise ValueError(f"noise is {getattr(noise, 'dtype', type(noise))}; need a float tensor")
    if noise.shape != (num, *shape):
        raise ValueError(f"noise has shape {tuple(noise.shape)}; need {(num, *shape)}")
    return noise
