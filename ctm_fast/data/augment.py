"""Geometric augmentation whose parameters the network is told, so that samples do not leak them.

Karras et al. 2022 (EDM, arXiv:2206.00364), Appendix F.2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

LABELS = 9
SCALE = 0.2  # standard deviation of the binary logarithm of a scaling
SHIFT = 0.125  # of a translation, as a share of the image's size
TURNED = 0.5  # share of the anisotropic scalings along an axis that is not the image's


class Augmentation(NamedTuple):
    """How each image of a batch is moved; rows of zeros leave it as it is."""

    xflip: Tensor  # (batch,) bool, left and right exchanged
    yflip: Tensor  # (batch,) bool, top and bottom exchanged
    scale: Tensor  # (batch,) binary logarithm over SCALE
    angle: Tensor  # (batch,) radians
    stretch: Tensor  # (batch,) binary logarithm over SCALE of one axis; minus that for the other
    axis: Tensor  # (batch,) radians, direction of that axis
    shift: Tensor  # (batch, 2) right and down, over SHIFT times the size

    @property
    def labels(self) -> Tensor:
        """What the network is told, (batch, LABELS) float32; zeros for no augmentation."""
        return torch.stack(
            [
                self.xflip.float(),
                self.yflip.float(),
                self.scale,
                self.angle.cos() - 1,
                self.angle.sin(),
                self.stretch * self.axis.cos(),
                self.stretch * self.axis.sin(),
                *self.shift.unbind(1),
            ],
            dim=1,
        )

    def rows(self, start: int, stop: int) -> Augmentation:
        """That of the images start to stop - 1."""
        return Augmentation(*(value[start:stop] for value in self))


def drawn(batch_size: int, probability: float, generator: torch.Generator) -> Augmentation:
    """Random parameters, every transform with `probability`; left and right by a fair coin.

    Args:
        batch_size: of the whole optimizer step: draw once, then take rows.
        probability: in [0, 1]; 0 augments nothing at all.
        generator: on the CPU.
    """
    coins = torch.rand(8, batch_size, generator=generator)
    normal = torch.randn(4, batch_size, generator=generator)
    angles = (2 * torch.rand(2, batch_size, generator=generator) - 1) * math.pi
    on = coins < probability
    return Augmentation(
        xflip=(coins[5] < 0.5) & (probability > 0),
        yflip=(coins[6] < 0.5) & on[0],
        scale=normal[0] * on[1],
        angle=angles[0] * on[2],
        stretch=normal[1] * on[3],
        axis=angles[1] * (on[3] & (coins[7] < TURNED)),
        shift=(normal[2:] * on[4]).T.contiguous(),
    )


def augmented(images: Tensor, how: Augmentation) -> Tensor:
    """The images, moved: (batch, C, H, W), bilinear, with reflected borders.

    Those that are only flipped, or not moved at all, keep their values.
    """
    images = torch.where(how.xflip.reshape(-1, 1, 1, 1), images.flip(3), images)
    images = torch.where(how.yflip.reshape(-1, 1, 1, 1), images.flip(2), images)
    rows = (how.labels[:, 2:] != 0).any(1).nonzero().flatten()
    if len(rows) == 0:
        return images
    matrix = _output_to_input(Augmentation(*(value[rows] for value in how)))
    chosen = images[rows]
    where = functional.affine_grid(matrix.to(chosen), list(chosen.shape), align_corners=False)
    moved = functional.grid_sample(
        chosen, where, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return images.index_copy(0, rows, moved)


def _output_to_input(how: Augmentation) -> Tensor:
    """Where every pixel comes from, (batch, 2, 3), in coordinates that go from -1 to 1."""
    turned = _rotation(how.axis)
    factors = torch.stack([2 ** (SCALE * how.stretch), 2 ** (-SCALE * how.stretch)], dim=1)
    stretched = turned @ torch.diag_embed(factors) @ turned.mT
    size = 2 ** (SCALE * how.scale)
    forward = stretched @ _rotation(how.angle) * size.reshape(-1, 1, 1)
    back = torch.linalg.inv(forward)
    shift = (2 * SHIFT * how.shift).unsqueeze(2)
    return torch.cat([back, -back @ shift], dim=2)


def _rotation(angle: Tensor) -> Tensor:
    c, s = angle.cos(), angle.sin()
    return torch.stack([c, -s, s, c], dim=1).reshape(-1, 2, 2)
