"""DiffAugment: differentiable random changes of the images that a discriminator sees."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

DRAWS = (
    7  # per image: brightness, saturation, contrast, row and column shift, row and column of hole
)


@dataclass(frozen=True)
class DiffAugment:
    """Colour, translation and cutout of a batch of images, from given uniform numbers.

    Pure PyTorch on any device, differentiable in the images to all orders. What happens to an
    image depends on its own row of numbers alone, so splitting a batch changes nothing, and two
    batches given the same numbers are changed alike. A strength of 0 leaves the images as they
    are, bit for bit.

    Raises:
        ValueError: for a strength outside its range.

    Source: Zhao et al. 2020 (DiffAugment, arXiv:2006.10738); strengths and their order as in
    sony/ctm, whose hole is 20 % of the height and width where DiffAugment's is 50 %.
    """

    brightness: float = 0.5  # a number within +- this is added to all pixels, >= 0
    saturation: float = 1.0  # distance to the pixel's mean times 1 +- this, in [0, 1]
    contrast: float = 0.5  # distance to the image's mean times 1 +- this, in [0, 1]
    translation: float = 0.125  # largest shift by whole pixels, part of the size, in [0, 1]
    cutout: float = 0.2  # height and width of the hole, part of the size, in [0, 1]

    def __post_init__(self) -> None:
        for field in fields(self):
            value, most = (
                getattr(self, field.name),
                float("inf") if field.name == "brightness" else 1,
            )
            if not 0 <= value <= most:
                raise ValueError(f"{field.name} must be in [0, {most}], got {value}")

    def __call__(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """Changed images, shape and dtype of `images`.

        Args:
            images: (batch, C, H, W) floating point. With one channel saturation does nothing.
            uniforms: (batch, 7) in [0, 1), of any floating dtype, one row per image; see `DRAWS`.

        Raises:
            ValueError: for other shapes.
        """
        if images.ndim != 4 or not images.is_floating_point():
            raise ValueError(
                "images must be (batch, C, H, W) and floating point, got "
                f"{tuple(images.shape)} {images.dtype}"
            )
        if uniforms.shape != (len(images), DRAWS):
            raise ValueError(
                f"uniforms must be ({len(images)}, {DRAWS}), got {tuple(uniforms.shape)}"
            )
        return self.moved(self.coloured(images, uniforms[:, :3]), uniforms[:, 3:])

    def coloured(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """Images of other brightness, saturation and contrast, in this order.

        Args:
            images: (batch, C, H, W).
            uniforms: (batch, 3) in [0, 1); 0.5 changes nothing.
        """
        swing = (2 * uniforms - 1).to(images.dtype).reshape(-1, 3, 1, 1, 1).unbind(1)
        images = images + self.brightness * swing[0]
        images = _spread(images, images.mean(1, keepdim=True), self.saturation * swing[1])
        means = images.flatten(1).mean(1).reshape(-1, 1, 1, 1)
        return _spread(images, means, self.contrast * swing[2])

    def moved(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """Images shifted by whole pixels, zeros coming in, then with a square hole of zeros.

        Args:
            images: (batch, C, H, W).
            uniforms: (batch, 4) in [0, 1): shift of rows, of columns, centre of the hole.
        """
        draws = uniforms.to(images.device).unbind(1)
        seen, source, hole = [], [], []
        for axis in (0, 1):
            size = images.shape[2 + axis]
            places = torch.arange(size, device=images.device)
            reach, side = pixels(self.translation, size), pixels(self.cutout, size)
            shift = _integer(draws[axis], 2 * reach + 1) - reach
            wanted = places + shift[:, None]
            seen.append((wanted >= 0) & (wanted < size))
            # Going round the edge makes every pixel the source of one pixel: the backward pass
            # then adds nothing to anything, in whatever order a GPU runs it.
            source.append(wanted.remainder(size))
            first = _integer(draws[2 + axis], size + 1 - side % 2) - side // 2
            hole.append((places >= first[:, None]) & (places < first[:, None] + side))
        index = (source[0][:, :, None] * images.shape[3] + source[1][:, None, :]).flatten(1)
        shifted = images.flatten(2).gather(2, index[:, None].expand(-1, images.shape[1], -1))
        kept = _outer(seen) & ~_outer(hole)
        return shifted.reshape(images.shape).where(kept[:, None], images.new_zeros(()))


def pixels(part: float, size: int) -> int:
    """floor(part * size + 0.5): a part of an image's size in whole pixels."""
    return int(part * size + 0.5)


def _spread(images: Tensor, centre: Tensor, more: Tensor) -> Tensor:
    return images + more * (images - centre)


def _integer(uniform: Tensor, count: int) -> Tensor:
    """Integers in [0, count), equally likely."""
    return (uniform * count).floor().long().clamp(0, count - 1)


def _outer(masks: list[Tensor]) -> Tensor:
    return masks[0][:, :, None] & masks[1][:, None, :]
