"""Where the reference images of a batch come from, so that nothing depends on how it is split.

Every set is a function of the whole batch of an optimizer step, or of one seed of that step: each
process, whichever rows it holds, gives every row the set that a single process would.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from ..rng import stream


def gathered(rows: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes in the order of their ranks, and where this one's begin.

    All processes have to call it, with equally many rows: one `all_gather`. A process alone, or
    without process group, gets its own rows.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows, 0
    rows = rows.contiguous()
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows)
    return torch.cat(parts), dist.get_rank() * len(rows)


def others_of_batch(
    labels: Tensor | None, all_labels: Tensor | None, first: int, rows: int, total: int, size: int
) -> Tensor:
    """Which images of the whole batch each row refers to, (rows, total) bool.

    Those are the `size` - 1 that follow it, beginning again after the last, and of these the ones
    with its label; never the row itself.

    Args:
        labels: (rows,) int64 of this process, or None.
        all_labels: (total,) int64 of the whole batch, or None.
        first: place of this process's first row in the whole batch.
        rows: of this process.
        total: of the whole batch.
        size: images of a set with the row itself, >= 1.
    """
    device = None if labels is None else labels.device
    place = torch.arange(first, first + rows, device=device)
    ahead = (torch.arange(total, device=device) - place[:, None]) % total
    allowed = (ahead > 0) & (ahead < size)
    if labels is None or all_labels is None:
        return allowed
    return allowed & (labels[:, None] == all_labels)


class Pool:
    """Images of a data set in memory, by class.

    Args:
        images: (N, C, H, W) in [-1, 1], any floating dtype, on any device.
        labels: (N,) int64 classes, or None.

    Raises:
        ValueError: for labels of another length, or an empty set.
    """

    def __init__(self, images: Tensor, labels: Tensor | None = None) -> None:
        if images.ndim != 4 or len(images) == 0 or not images.is_floating_point():
            raise ValueError(
                "the reference images must be (N, C, H, W) floating point and not empty, got "
                f"{tuple(images.shape)} {images.dtype}"
            )
        if labels is not None and (len(labels) != len(images) or labels.ndim != 1):
            raise ValueError(f"{tuple(labels.shape)} labels for {len(images)} reference images")
        self.images = images
        self.rows: dict[int, Tensor] = {}
        if labels is not None:
            labels = labels.cpu()
            self.rows = {c: (labels == c).nonzero()[:, 0] for c in labels.unique().tolist()}

    def of_class(self, label: int | None) -> Tensor:
        """All images of a class, or of the set for None.

        Raises:
            ValueError: for a class without images.
        """
        return self.images if label is None else self._pick(self._known(label))

    def drawn(self, count: int, seed: int, label: int | None) -> Tensor:
        """`count` images, with replacement, by `seed` and `label` alone.

        Raises:
            ValueError: for a class without images.
        """
        known = None if label is None else self._known(label)
        generator = stream(seed) if label is None else stream(seed, label)
        index = torch.randint(
            len(self.images) if known is None else len(known), (count,), generator=generator
        )
        return self._pick(index if known is None else known[index])

    def _pick(self, index: Tensor) -> Tensor:
        return self.images[index.to(self.images.device)]

    def _known(self, label: int) -> Tensor:
        if label not in self.rows:
            raise ValueError(f"no reference image of class {label}; there are {sorted(self.rows)}")
        return self.rows[label]


def by_class(labels: Tensor | None, count: int) -> Iterator[tuple[int | None, Tensor]]:
    """(class, its rows) of a batch of `count` images; one group (None, all rows) without labels.

    Raises:
        ValueError: for labels that are no whole numbers.
    """
    if labels is None:
        yield None, torch.arange(count)
        return
    check_classes(labels)
    known = labels.cpu()
    for label in known.unique().tolist():
        yield label, (known == label).nonzero()[:, 0]


def check_classes(labels: Tensor | None) -> None:
    """Raise ValueError for labels that do not name one class per image."""
    if labels is not None and (labels.is_floating_point() or labels.ndim != 1):
        raise ValueError(
            "a reference set needs one whole number per image as label, got "
            f"{tuple(labels.shape)} {labels.dtype}; reference='none' needs none"
        )
