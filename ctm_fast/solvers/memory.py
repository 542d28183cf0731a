"""Where the states of a solve lie: rows of memory whose addresses stay."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import torch
from torch import Tensor

from .slots import Moves

_tokens = count()


class Memory:
    """States of up to `capacity` images, in rows; see `Moves`. The addresses stay."""

    def __init__(
        self, x: Tensor, own: torch.dtype, labels: Tensor | None, kept: int, history: int
    ) -> None:
        self.token = next(_tokens)
        self.capacity, self.shape = max(len(x), 1), x.shape[1:]
        shape = (Moves.scratch(self.capacity, kept) + 1, self.shape.numel())
        self.parts = [x.new_zeros(shape), x.new_zeros(shape, dtype=own)]
        self.parts += [x.new_zeros(shape) for _ in range(history)]
        self.labels: Tensor | None = None
        self.shared = False
        if labels is not None:
            self.shared = len(labels) == 1 and len(x) != 1
            many = 1 if self.shared else self.capacity
            self.labels = labels.new_zeros(many, *labels.shape[1:], device=x.device)

    def begin(self, x: Tensor, rows: Tensor | None, c_in: Tensor, labels: Tensor | None) -> None:
        """Lay out the images of a solve, in `rows` or, if None, in the first ones."""
        values = [x, c_in.reshape(-1, *[1] * (x.ndim - 1)) * x]
        for part, value in zip(self.parts, values):
            lines = _lines(value).to(part.dtype)
            if rows is None:
                part[: len(x)] = lines
            else:
                part.index_copy_(0, rows, lines)
        for part in self.parts[2:]:
            part.zero_()
        if self.labels is not None and labels is not None:
            self.labels[: len(labels)] = labels

    def classes(self, rows: Tensor) -> Tensor | None:
        """Labels of the images in `rows`."""
        if self.labels is None or self.shared:
            return self.labels
        return self.labels.index_select(0, rows % self.capacity)

    def read(self, rows: Tensor) -> list[Tensor]:
        """The states in `rows`."""
        return [self._images(part.index_select(0, rows)) for part in self.parts]

    def write(self, rows: Tensor, state: Sequence[Tensor]) -> None:
        """Put states into `rows`."""
        for part, images in zip(self.parts, state, strict=True):
            part.index_copy_(0, rows, _lines(images))

    def states(self, rows: Tensor) -> Tensor:
        """x in `rows` (kept, batch): (kept, batch, ...)."""
        lines = self.parts[0].index_select(0, rows.reshape(-1))
        return self._images(lines).unflatten(0, rows.shape)

    def _images(self, lines: Tensor) -> Tensor:
        if len(self.shape) != 3:
            return lines.view(-1, *self.shape)
        channels, height, width = self.shape
        return lines.view(-1, height, width, channels).permute(0, 3, 1, 2)


def _lines(images: Tensor) -> Tensor:
    """(batch, values of an image), without a copy for channels-last images."""
    if images.ndim == 4:
        images = images.permute(0, 2, 3, 1)
    return images.flatten(1)


def laid_out_like(source: Tensor, layout: Tensor) -> Tensor:
    """source with the strides of `layout`, as the fused updates need it."""
    if source.stride() == layout.stride():
        return source
    return torch.empty_like(layout, dtype=source.dtype).copy_(source)
