"""Random frozen layers between a frozen feature network and a discriminator's heads.

Source: Sauer et al. 2021 (Projected GANs, arXiv:2111.01007); channels as in StyleGAN-XL.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..rng import stream
from .init import uniform

Maps = Sequence[tuple[int, int]]  # (channels, height = width) of feature maps, finest first
WIDTH = 64  # published channels of the finest projected map
_GROWTH = 8  # the widest projection has this times as many


def check_maps(maps: Maps) -> tuple[tuple[int, int], ...]:
    """`maps` as a tuple.

    Raises:
        ValueError: unless it lists pairs of positive integers, sizes not increasing.
    """
    pairs = tuple((int(channels), int(size)) for channels, size in maps)
    sizes = [size for _, size in pairs]
    if not pairs or min(map(min, pairs)) < 1 or sizes != sorted(sizes, reverse=True):
        raise ValueError(
            "feature maps must be (channels, size) pairs of positive integers, finest first, "
            f"got {list(maps)}"
        )
    return pairs


class FrozenConv(nn.Module):
    """Convolution whose random weights are buffers: saved, moved, cast, never trained.

    Weights and biases are uniform in +- gain / sqrt(inputs per output value).

    Args:
        channels: of the input.
        out_channels: of the output.
        generator: where the weights come from.
        kernel: height and width.
        stride: step between outputs; for `upwards`, outputs per input and direction.
        padding: zeros at every edge.
        gain: see above.
        upwards: a transposed convolution without overlap (kernel = stride).
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        channels: int,
        out_channels: int,
        generator: torch.Generator,
        *,
        kernel: int = 1,
        stride: int = 1,
        padding: int = 0,
        gain: float = 1.0,
        upwards: bool = False,
    ) -> None:
        super().__init__()
        first = (channels, out_channels) if upwards else (out_channels, channels)
        draw = uniform(gain / math.sqrt(channels * (1 if upwards else kernel**2)))
        for name, shape in (("weight", (*first, kernel, kernel)), ("bias", (out_channels,))):
            values = torch.empty(shape)
            draw(values, generator)
            self.register_buffer(name, values)
        self.stride, self.padding, self.upwards = stride, padding, upwards

    def forward(self, x: Tensor) -> Tensor:
        """(batch, out_channels, H', W') for x (batch, channels, H, W)."""
        apply = functional.conv_transpose2d if self.upwards else functional.conv2d
        return apply(x, self.weight, self.bias, self.stride, self.padding)


class Projector(nn.Module):
    """Mixes the channels of feature maps, then the scales, with random frozen weights.

    Every map goes through a 1x1 convolution to width, 2 width, 4 width, 8 width channels (8 width
    for any further map). Then from the coarsest map on: the result of the map below is added, a
    1x1 convolution halves the channels (none is halved at the finest map), and the result is
    resized (bilinear, corners aligned) to the next finer map's size, at the finest map to double.

    Args:
        maps: (channels, size) of the feature maps, finest first.
        seed: numbers of the random stream; equal numbers give equal weights.
        width: channels of the finest projected map; 64 as published, less for tiny images.

    Attributes:
        maps: (channels, size) of the results, finest first; (64, 112), (64, 56), (128, 28),
            (256, 14) for maps of 56, 28, 14 and 7 pixels.

    Raises:
        ValueError: for a bad list of maps or width.
    """

    def __init__(self, maps: Maps, seed: Sequence[int], width: int = WIDTH) -> None:
        super().__init__()
        maps = check_maps(maps)
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        widths = [width * min(2**i, _GROWTH) for i in range(len(maps))]
        results = [widths[max(i - 1, 0)] for i in range(len(maps))]
        sizes = [2 * maps[0][1], *(size for _, size in maps[:-1])]
        self.maps = tuple(zip(results, sizes))
        mixed = zip((channels for channels, _ in maps), widths)
        self.channel_mixing = nn.ModuleList(
            FrozenConv(*pair, stream(*seed, 0, i)) for i, pair in enumerate(mixed)
        )
        self.scale_mixing = nn.ModuleList(
            FrozenConv(*pair, stream(*seed, 1, i)) for i, pair in enumerate(zip(widths, results))
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Projected maps, finest first.

        Args:
            maps: (batch, C_i, H_i, W_i), finest first, of any dtype; computed in the weights'.

        Raises:
            ValueError: for another number of maps or other channels.
        """
        expected = [conv.weight.shape[1] for conv in self.channel_mixing]  # type: ignore[index]
        if [m.shape[1] for m in maps] != expected:
            raise ValueError(
                f"need feature maps of {expected} channels, finest first, got shapes "
                f"{[tuple(m.shape) for m in maps]}"
            )
        dtype = self.channel_mixing[0].weight.dtype
        found: list[Tensor] = []
        mixed: Tensor | None = None
        for i in reversed(range(len(maps))):
            own = self.channel_mixing[i](maps[i].to(dtype))  # type: ignore[arg-type]
            # A 1x1 convolution and a resize commute: before it, it costs a quarter.
            mixed = self.scale_mixing[i](own if mixed is None else own + mixed)
            height, width = maps[max(i - 1, 0)].shape[-2:]
            size = (height, width) if i else (2 * height, 2 * width)
            mixed = functional.interpolate(mixed, size, mode="bilinear", align_corners=True)
            found.append(mixed)
        return found[::-1]


class TokenPyramid(nn.Module):
    """Turns four equally large maps of a vision transformer into a pyramid; random, frozen.

    1x1 convolutions to an eighth, a quarter, half and all of the channels, then: transposed
    convolution to four times the size, to double, nothing, 3x3 convolution with stride 2.

    Args:
        channels: of every map.
        seed: numbers of the random stream.

    Source: Ranftl et al. 2021 (DPT, arXiv:2103.13413), as in StyleGAN-XL
    (arXiv:2202.00273).
    """

    def __init__(self, channels: int, seed: Sequence[int]) -> None:
        super().__init__()
        widths = [max(1, channels // part) for part in (8, 4, 2, 1)]
        self.reduce = nn.ModuleList(
            FrozenConv(channels, w, stream(*seed, 0, i)) for i, w in enumerate(widths)
        )
        self.resize = nn.ModuleList(
            [
                FrozenConv(w, w, stream(*seed, 1, i), kernel=k, stride=k, upwards=True)
                for i, (w, k) in enumerate(zip(widths[:2], (4, 2)))
            ]
            + [nn.Identity()]
            + [FrozenConv(widths[3], widths[3], stream(*seed, 1, 3), kernel=3, stride=2, padding=1)]
        )
        self.widths = tuple(widths)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """(batch, C_i, H_i, W_i), H_i = 4 H, 2 H, H, H / 2, for four maps (batch, C, H, W)."""
        return [resize(cut(m)) for cut, resize, m in zip(self.reduce, self.resize, maps)]
