"""How images of any size become squares of one size: two rules, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image

MAX_RESIZED = 2**26  # pixels of an image on its way to the square


def crop_then_resize(image: Image.Image, size: int) -> Image.Image:
    """The largest centred square, brought to (size, size): box average down, bicubic up."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    if side == size:
        return image.crop(box)
    how = Image.Resampling.BOX if side > size else Image.Resampling.BICUBIC
    return image.resize((size, size), how, box=box)


def adm(image: Image.Image, size: int) -> Image.Image:
    """ImageNet as ADM, CM and CTM train on it, (size, size).

    Box averages of 2x2 pixels while the shorter side is at least 2 * size, then bicubically until
    the shorter side is `size`, then the centred square.

    Raises:
        ValueError: for an image so thin that it would have more than 2**26 pixels on the way.

    Source: Dhariwal and Nichol 2021, arXiv:2105.05233, data preparation.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    if width * height > MAX_RESIZED:
        raise ValueError(
            f"{image.width}x{image.height} pixels become {width}x{height}, allowed are "
            f"{MAX_RESIZED} in all"
        )
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


RULES: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "crop": crop_then_resize,
    "adm": adm,
}


def resize_details(size: int | None, resize: str) -> dict[str, Any]:
    """What a report says about a data set's options `size` and `resize`; JSON types only."""
    return {} if size is None else {"size": size, "resize": resize}


def check_resize(size: int | None, resize: str) -> None:
    """Check a data set's options `size` and `resize`.

    Raises:
        ValueError: for a size below 1, an unknown rule, or a rule without a size.
    """
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    if resize not in RULES:
        raise ValueError(f"unknown resize {resize!r}; allowed are {sorted(RULES)}")
    if size is None and resize != "crop":
        raise ValueError(f"resize={resize!r} needs size=...")
