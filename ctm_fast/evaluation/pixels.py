"""Images as the bytes that a feature extractor sees."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ctm_fast.data.dataset import ImageDataset


def rounded(images: Tensor) -> Tensor:
    """Images (b, C, H, W) in [-1, 1] as uint8, to the nearest level, halves upwards.

    Source: NVlabs/edm, generate.py.
    """
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def truncated(images: Tensor) -> Tensor:
    """Images (b, C, H, W) in [-1, 1] as uint8, to the level below.

    Source: sony/ctm, image_sample.py; openai/consistency_models.
    """
    return ((images + 1) * 127.5).clamp(0, 255).to(torch.uint8)


UINT8_RULES: dict[str, Callable[[Tensor], Tensor]] = {"round": rounded, "trunc": truncated}


def uint8_rule(name: str) -> Callable[[Tensor], Tensor]:
    """The function that turns images into bytes.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in UINT8_RULES:
        raise ValueError(f"unknown uint8 rule {name!r}; choose from {sorted(UINT8_RULES)}")
    return UINT8_RULES[name]


def pixels_of(dataset: ImageDataset, indices: Tensor) -> Tensor:
    """Stored images (b, C, H, W) uint8 in [0, 255], without a detour over [-1, 1].

    Images with 256 levels are taken as they are (truncating them again could lose a level to
    rounding); others, like the digits' 17, are spread over [0, 255] and rounded.
    """
    pixels = dataset.pixels(indices)
    if dataset.white == 255:
        return pixels
    return pixels.float().mul(255 / dataset.white).round().to(torch.uint8)


def coloured(pixels: Tensor) -> Tensor:
    """Images with three channels, (b, 3, H, W); grey ones are repeated.

    Raises:
        ValueError: for another dtype than uint8 or another number of channels.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise ValueError(
            f"images are {tuple(pixels.shape)} {pixels.dtype}; allowed are (b, 1 or 3, H, W) uint8"
        )
    return pixels if pixels.shape[1] == 3 else pixels.expand(-1, 3, -1, -1)


def resized(pixels: Tensor, side: int) -> Tensor:
    """Images (b, C, side, side) uint8, bilinear without smoothing, rounded to 256 levels."""
    made = functional.interpolate(
        pixels.float(), (side, side), mode="bilinear", align_corners=False, antialias=False
    )
    return made.round_().clamp_(0, 255).to(torch.uint8)
