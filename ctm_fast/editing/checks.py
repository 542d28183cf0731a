"""Checks of images that a caller gives to be edited."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

OVERSHOOT = 1e-6  # beyond [-1, 1], as a mean of pixels in float32 may be


def checked_shape(images: Tensor, shape: Sequence[int], what: str) -> None:
    """Raise ValueError unless these are floating images (batch, *shape)."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"{what} is {found}; need a float tensor with values in [-1, 1]")
    if images.ndim != len(shape) + 1 or images.shape[1:] != tuple(shape) or len(images) == 0:
        raise ValueError(f"{what} is {tuple(images.shape)}; need (batch, {str(tuple(shape))[1:]}")


def checked_values(images: Tensor, shape: Sequence[int], bounded: bool, what: str) -> Tensor:
    """The images, clamped to [-1, 1] if `bounded`.

    Raises:
        ValueError: unless they are (batch, *shape), finite, and in [-1, 1] if `bounded`.
    """
    checked_shape(images, shape, what)
    if not bool(images.isfinite().all()):
        raise ValueError(f"{what} has values that are not finite")
    largest = float(images.abs().max())
    if bounded and largest > 1 + OVERSHOOT:
        raise ValueError(f"{what} has values up to {largest:g}; need [-1, 1], or clip=False")
    return images.clamp(-1, 1) if bounded else images
