"""What the network is told besides the image: noise levels and classes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import kernels
from ..kernels.time_embedding import positional_frequencies
from .layers import Constant


class NoiseEmbedding(nn.Module, ABC):
    """Embedding of a noise level: sines and cosines of it, and two layers that are given."""

    sin_first: bool

    @abstractmethod
    def angular_frequencies(self) -> Tensor:
        """(channels / 2,) float32, radians per unit of c_noise."""

    def forward(
        self,
        c_noise: Tensor,
        layer0: nn.Linear,
        layer1: nn.Linear,
        before: Tensor | None = None,
        after: Tensor | None = None,
    ) -> Tensor:
        """silu(layer1(silu(layer0(waves + before))) + after): (batch or 1, emb_channels).

        Args:
            c_noise: (batch or 1,), of any dtype; not rounded to that of the layers.
            layer0: from channels to emb_channels.
            layer1: from emb_channels to emb_channels.
            before: (batch or 1, channels), or None.
            after: (batch or 1, emb_channels), or None.
        """
        dtype = torch.promote_types(c_noise.dtype, layer0.weight.dtype)
        return kernels.time_embedding(
            c_noise.to(torch.promote_types(dtype, torch.float32)),
            self.angular_frequencies(),
            *(layer0.weight, layer0.bias, layer1.weight, layer1.bias),
            *(self.sin_first, before, after),
        )


class PositionalEmbedding(NoiseEmbedding):
    """Frequencies from 1 down to about 1e-4.

    Args:
        channels: sines and cosines together, even.
        endpoint: True if the last frequency is exactly 1e-4, False if that would be the next.
        sin_first: [sin, cos] instead of [cos, sin].

    Source: Vaswani et al. 2017, Section 3.5; `endpoint` and the order as in Karras et al. 2022.
    """

    def __init__(self, channels: int, endpoint: bool, sin_first: bool) -> None:
        super().__init__()
        self.frequencies = Constant(positional_frequencies(channels // 2, endpoint))
        self.sin_first = sin_first

    def angular_frequencies(self) -> Tensor:
        """(channels / 2,) float32, radians per unit of c_noise."""
        return self.frequencies.value


class FourierEmbedding(NoiseEmbedding):
    """Frequencies 2 pi f, with f drawn once from N(0, scale^2) and saved; [sin, cos].

    `freqs` keeps its float32 values whatever the module is cast to.

    Source: Tancik et al. 2020; Song et al. 2021 (NCSN++) with scale 16.
    """

    freqs: Tensor
    sin_first = True

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("freqs", torch.zeros(channels // 2))

    def angular_frequencies(self) -> Tensor:
        """(channels / 2,) float32, radians per unit of c_noise."""
        return 2 * math.pi * self.freqs

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FourierEmbedding:
        before = self.freqs
        super()._apply(fn, recurse)
        if self.freqs.dtype != before.dtype:
            self.freqs = before.to(self.freqs.device)
        return self

    def extra_repr(self) -> str:
        """Number of frequencies and their scale."""
        return f"{len(self.freqs)} frequencies, scale={self.scale}"


def class_embedding(labels: Tensor, weight: Tensor) -> Tensor:
    """Rows of a class table: (batch, channels).

    Args:
        labels: (batch,) integers, or (batch or 1, classes) float weights of the classes.
        weight: (channels, classes).
    """
    if labels.is_floating_point():
        return F.linear(labels.to(weight.dtype), weight)
    return F.embedding(labels, weight.t())


def keep_some_rows(rows: Tensor, drop: float) -> Tensor:
    """Rows, each set to zero with probability `drop` (label dropout); the rest is not rescaled."""
    keep = torch.empty(rows.shape[0], 1, dtype=rows.dtype, device=rows.device)
    return rows * keep.bernoulli_(1 - drop)
