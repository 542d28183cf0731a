"""Image files to pixels: format allow-list, size limits, optional centre crop and resize."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from .resize import RULES

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
MAX_PIXELS = 2**26  # width times height of one file, before any resize

_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
_GREY, _COLOUR = ("1", "L"), ("RGB", "P", "RGBA", "LA", "PA", "CMYK", "YCbCr")


def is_image_name(name: str) -> bool:
    """Whether `name` ends like an image file."""
    return name.lower().endswith(EXTENSIONS)


def image_shape(file: Path | BinaryIO, name: str, size: int | None = None) -> tuple[int, int, int]:
    """(C, H, W) that `decoded` will give for this file; reads the header only.

    Raises:
        ValueError: if `file` is not an image of an allowed kind and size.
    """
    with _opened(file, name) as image:
        channels = 1 if image.mode in _GREY else 3
        return (channels, size or image.height, size or image.width)


def decoded(
    file: Path | BinaryIO,
    name: str,
    shape: tuple[int, int, int],
    size: int | None = None,
    resize: str = "crop",
) -> np.ndarray:
    """Pixels of one file, (C, H, W) uint8 of shape `shape`.

    Args:
        file: path or open binary file.
        name: what errors call the file.
        shape: (C, H, W) that the data set has.
        size: None to take the image as it is; otherwise it is made (size, size).
        resize: how, one of `resize.RULES`.

    Raises:
        ValueError: if the file is damaged, too large, of another shape, or partly transparent.
    """
    channels, height, width = shape
    with _opened(file, name) as image:
        if size is None and (image.height, image.width) != (height, width):
            raise ValueError(
                f"{name} is {image.width}x{image.height}, the data set {width}x{height}: "
                f"all images must have one size; pass size=... to crop and resize them"
            )
        if channels == 1 and image.mode not in _GREY:
            raise ValueError(f"{name} has colour (mode {image.mode}), the data set is grey")
        try:
            flat = _without_alpha(image, name).convert("L" if channels == 1 else "RGB")
        except Exception as error:  # decoders raise almost anything on damaged files
            raise ValueError(f"{name} cannot be decoded: {error}") from error
    if size is not None:
        try:
            flat = RULES[resize](flat, size)
        except ValueError as error:
            raise ValueError(f"{name} is refused: {error}") from None
    pixels = np.asarray(flat, dtype=np.uint8)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _opened(file: Path | BinaryIO, name: str) -> Image.Image:
    try:
        image = Image.open(file, formats=_FORMATS)
    except Exception as error:
        raise ValueError(
            f"{name} is not a readable png, jpg, webp or bmp image: {error}"
        ) from error
    reason = None
    if image.width * image.height > MAX_PIXELS:
        reason = f"{image.width}x{image.height} pixels, allowed are {MAX_PIXELS} in all"
    elif image.mode not in _GREY + _COLOUR:
        reason = f"pixel mode {image.mode}, allowed are {', '.join(_GREY + _COLOUR)}"
    if reason:
        image.close()
        raise ValueError(f"{name} has {reason}")
    return image


def _without_alpha(image: Image.Image, name: str) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            raise ValueError(f"{name} is partly transparent; flatten it first")
    return image
