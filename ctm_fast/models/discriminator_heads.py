"""Trained heads of the projected discriminator: one small convolutional network per feature map."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

SMALLEST = 7  # maps are halved as long as they keep this many pixels, and at least once
_WIDEST = 8  # channels before the last layer, in widths


class Head(nn.Sequential):
    """Logits of patches of a feature map.

    Down blocks (4x4 convolution of stride 2 with bias, batch norm, leaky ReLU of slope 0.2) until
    another one would leave less than 7 pixels, one at least (a map of 1 pixel has none), then a
    4x4 convolution without bias to one channel, smaller where the map is. Convolutions have
    spectral norm. Channels double from block to block, up to 8 width. Maps of 112, 56, 28 and 14
    pixels get 4, 3, 2 and 1 blocks and 16 logits each.

    Args:
        channels: of the map.
        size: its height and width; larger maps give more logits.
        width: 64 as published, less for tiny images.

    Attributes:
        size: the smallest height and width that it takes.

    Source: Sauer et al. 2021 (Projected GANs, arXiv:2111.01007) as in StyleGAN-XL
    (arXiv:2202.00273), without its class embedding, as in sony/ctm.
    """

    def __init__(self, channels: int, size: int, width: int = 64) -> None:
        super().__init__()
        self.size = size
        blocks = down_blocks(size)
        for i in range(blocks):
            wider = max(width, _WIDEST * width >> (blocks - 1 - i))
            self.append(
                nn.Sequential(
                    spectral_norm(nn.Conv2d(channels, wider, 4, stride=2, padding=1)),
                    nn.BatchNorm2d(wider),
                    nn.LeakyReLU(0.2, inplace=True),
                )
            )
            channels = wider
        kernel = min(4, size >> blocks)
        self.append(spectral_norm(nn.Conv2d(channels, 1, kernel, bias=False)))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, logits) for a map (batch, channels, H, W)."""
        return super().forward(x).flatten(1)


def down_blocks(size: int) -> int:
    """How often a map of `size` pixels is halved."""
    return 0 if size < 2 else max(1, (size // SMALLEST).bit_length() - 1)
