"""Image grids as PNG files and as data URIs; small images are enlarged without smoothing."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .protocol import quantized

SCALE = 6  # screen pixels per image pixel
GAP = 3  # screen pixels between images, transparent


def grid_png(images: Tensor, path: str | Path, ncol: int, scale: int = SCALE) -> Path:
    """Path of a PNG with the images in rows of `ncol`; folders are created.

    Args:
        images: (N, C, H, W) in [-1, 1], C 1 or 3; values outside are clamped.
        path: file to write.
        ncol: images per row, >= 1.
        scale: screen pixels per image pixel, >= 1.

    Raises:
        ValueError: for another number of channels, no images, or ncol or scale below 1.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png_bytes(images, ncol, scale))
    return path


def png_uri(images: Tensor, ncol: int, scale: int = SCALE) -> str:
    """`data:` URI of the picture that `grid_png` writes; same arguments."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(images, ncol, scale)).decode()


def png_bytes(images: Tensor, ncol: int, scale: int = SCALE) -> bytes:
    """Content of the file that `grid_png` writes; same arguments."""
    buffer = io.BytesIO()
    Image.fromarray(_grid(images, ncol, scale)).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def class_ordered(images: Tensor, labels: Tensor, per_class: int) -> Tensor:
    """The first `per_class` images of every class, classes ascending: a grid with a row per class.

    Args:
        images: (N, C, H, W).
        labels: (N,) int64.
        per_class: images of each class; the smallest class decides if it has fewer.

    Returns:
        images: (num_classes * n, C, H, W) with n = min(per_class, size of the smallest class).
    """
    classes = [torch.nonzero(labels == value).flatten() for value in labels.unique().tolist()]
    count = min(per_class, *(len(members) for members in classes))
    return images[torch.cat([members[:count] for members in classes])]


def _grid(images: Tensor, ncol: int, scale: int) -> np.ndarray:
    if images.ndim != 4 or len(images) == 0 or images.shape[1] not in (1, 3):
        raise ValueError(f"images {tuple(images.shape)}: allowed are (N, 1 or 3, H, W) with N >= 1")
    if ncol < 1 or scale < 1:
        raise ValueError(f"ncol and scale must be at least 1, got {ncol} and {scale}")
    tiles = quantized(images.detach().float().cpu()).repeat_interleave(scale, 2)
    tiles = tiles.repeat_interleave(scale, 3)
    number, channels, height, width = tiles.shape
    nrow, ncol = -(-number // ncol), min(ncol, number)
    step_y, step_x = height + GAP, width + GAP
    canvas = torch.zeros(nrow * step_y - GAP, ncol * step_x - GAP, channels + 1, dtype=torch.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // ncol * step_y, index % ncol * step_x
        canvas[top : top + height, left : left + width, :channels] = tile.permute(1, 2, 0)
        canvas[top : top + height, left : left + width, channels] = 255
    return canvas.numpy()


def displayed(x: Tensor, sigma: float, sigma_data: float) -> Tensor:
    """Noisy images (N, C, H, W) at level `sigma`, scaled so that they look alike at all levels.

    Multiplied by sigma_data / sqrt(sigma_data^2 + sigma^2): the standard deviation becomes that of
    the data, and clean images stay as they are.
    """
    return x * (sigma_data / math.hypot(sigma_data, sigma))
