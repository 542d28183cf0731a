"""What the network is told besides the image: noise levels and classes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Constant


class PositionalEmbedding(nn.Module):
    """Sines and cosines of c_noise at frequencies from 1 down to about 1e-4.

    Args:
        channels: width of the embedding, even.
        endpoint: True if the last frequency is exactly 1e-4, False if it is the one before.
        sin_first: [sin, cos] instead of [cos, sin].

    Source: Vaswani et al. 2017, Section 3.5; `endpoint` and the order as in Karras et al. 2022.
    """

    def __init__(self, channels: int, endpoint: bool, sin_first: bool) -> None:
        super().__init__()
        half = channels // 2
        step = math.log(1e-4) / (half - int(endpoint))
        self.frequencies = Constant([math.exp(step * k) for k in range(half)])
        self.sin_first = sin_first

    def forward(self, c_noise: Tensor) -> Tensor:
        """(batch, channels), dtype of `c_noise`, which is (batch,) float32 or float64."""
        return _waves(c_noise, self.frequencies.value, self.sin_first)


class FourierEmbedding(nn.Module):
    """Sines and cosines of 2 pi f c_noise, with f drawn once from N(0, scale^2) and saved.

    `freqs` keeps its float32 values whatever the module is cast to.

    Source: Tancik et al. 2020; Song et al. 2021 (NCSN++) with scale 16.
    """

    freqs: Tensor

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("freqs", torch.zeros(channels // 2))

    def forward(self, c_noise: Tensor) -> Tensor:
        """(batch, channels), dtype of `c_noise`, which is (batch,) float32 or float64."""
        return _waves(c_noise, 2 * math.pi * self.freqs, sin_first=True)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FourierEmbedding:
        before = self.freqs
        super()._apply(fn, recurse)
        if self.freqs.dtype != before.dtype:
            self.freqs = before.to(self.freqs.device)
        return self

    def extra_repr(self) -> str:
        """Number of frequencies and their scale."""
        return f"{len(self.freqs)} frequencies, scale={self.scale}"


def _waves(c_noise: Tensor, frequencies: Tensor, sin_first: bool) -> Tensor:
    angles = c_noise[:, None] * frequencies.to(c_noise.dtype)
    halves = [angles.sin(), angles.cos()] if sin_first else [angles.cos(), angles.sin()]
    return torch.cat(halves, dim=1)


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
