"""Small image files for the tests of folders and archives."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def pixels(seed: int, height: int = 6, width: int = 6, channels: int = 3) -> np.ndarray:
    """(H, W, 3) or (H, W) random uint8."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(array: np.ndarray, kind: str = "png") -> bytes:
    """An image file holding `array`."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def chw(array: np.ndarray) -> np.ndarray:
    """(C, H, W) view of an (H, W, C) or (H, W) array."""
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
