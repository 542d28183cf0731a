"""Checks of what a caller asks a sampler for: how many images, which labels, which noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from .seeding import HostNoise, as_seeds, listed_seeds, seed_tensor


@dataclass(frozen=True)
class Request:
    """What one call of a sampler asks for, checked."""

    num: int  # images
    shape: tuple[int, ...]  # of one image
    seeds: Tensor | None  # (num,) int64; None where the host draws the noise
    noise: Tensor | None  # (num, *shape) given first state
    labels: Tensor | None  # (num,) int64 classes
    host: HostNoise | None  # draws the noise instead of seeds


def request(
    model: Any,
    num: int | None,
    labels: Any = None,
    seed: int | Iterable[int] | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    randn_like: Callable[[Tensor], Tensor] | None = None,
) -> Request:
    """The arguments of a sampler's call, checked against each other and the model.

    Raises:
        ValueError: as `host_noise`, `number_of_images`, `checked_labels` and `checked_noise`.
    """
    host = host_noise(seed, generator, randn_like)
    if isinstance(seed, Iterable) and not hasattr(seed, "__len__"):
        seed = list(seed)
    counted: Any = seed if host is None else host.generator
    num = number_of_images(num, labels, counted, noise, "seed" if host is None else "generator")
    shape = image_shape(model, noise)
    classes = checked_labels(labels, num, int(getattr(model, "label_dim", 0)))
    seeds = seed_tensor(as_seeds(0 if seed is None else seed, num)) if host is None else None
    if noise is not None:
        noise = checked_noise(noise, num, shape)
    return Request(num, shape, seeds, noise, classes, host)


def host_noise(
    seed: Any,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    randn_like: Callable[[Tensor], Tensor] | None,
) -> HostNoise | None:
    """The host's source of noise, or None where seeds are the source.

    Raises:
        ValueError: for more than one source, or one that is not what it should be.
    """
    sources = {"seed": seed, "generator": generator, "randn_like": randn_like}
    given = [name for name, source in sources.items() if source is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are sources of the same noise; give one of them")
    if generator is not None:
        many = isinstance(generator, (list, tuple))
        listed: Any = generator if many else [generator]
        if wrong := [entry for entry in listed if not isinstance(entry, torch.Generator)]:
            raise ValueError(
                f"generator has {wrong[0]!r}; need a torch.Generator or a list of one per image"
            )
    if randn_like is not None and not callable(randn_like):
        raise ValueError(f"randn_like is {randn_like!r}; it must be callable, as torch.randn_like")
    return None if given in ([], ["seed"]) else HostNoise(generator, randn_like)


def image_shape(model: Any, noise: Tensor | None = None) -> tuple[int, ...]:
    """Shape of the model's images, (C, H, W); that of the noise where the model does not know.

    Raises:
        ValueError: if neither says it.
    """
    if hasattr(model, "img_shape"):
        if model.img_shape is not None:
            return tuple(model.img_shape)
        if not isinstance(noise, Tensor) or noise.ndim < 2:
            raise ValueError("the callable does not say its images' shape: shape=(C, H, W)")
        return tuple(noise.shape[1:])
    return int(model.img_channels), int(model.img_resolution), int(model.img_resolution)


def number_of_images(
    num: int | None,
    labels: Any,
    seed: Any,
    noise: Tensor | None,
    source: str = "seed",
) -> int:
    """How many images are asked for: the one number that all arguments agree on.

    Args:
        num: said directly.
        labels: one integer, or one per image.
        seed: one seed or generator, or one per image.
        noise: (num, ...) first state.
        source: what `seed` is called in messages.

    Raises:
        ValueError: if nothing says how many, two arguments disagree, or the number is not >= 1.
    """
    said = {
        "num": num,
        "labels": len(labels) if is_many(labels) else None,
        source: _entries(seed) if is_many(seed) else None,
        "noise": None if noise is None else len(noise),
    }
    counts = {name: count for name, count in said.items() if count is not None}
    if not counts:
        if labels is None:
            raise ValueError(f"say how many images: num, or one label, {source} or noise per image")
        return 1
    if len(set(counts.values())) > 1:
        raise ValueError(f"arguments disagree about the number of images: {counts}")
    count = next(iter(counts.values()))
    if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
        raise ValueError(f"the number of images is {count!r}; it must be an integer, at least 1")
    return int(count)


def _entries(seed: Any) -> int:
    generators = all(isinstance(entry, torch.Generator) for entry in seed)
    return len(seed) if generators else len(listed_seeds(seed))


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
            raise ValueError(
                f"labels {labels!r} for an unconditional model; it takes none (a callable that "
                "takes them needs label_dim=)"
            )
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
