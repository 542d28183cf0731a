"""Who shares a network batch when every image has its own number of passes, and where it lies.

A pass is one use of the network batch, of which an image needs several, one after the other. The
batch has a number of slots; the slot of a finished image goes to another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

PADDING = -1
"""The image of a slot with nothing to do."""


def schedule(passes: Tensor, slots: int, granularity: int = 1) -> list[tuple[Tensor, Tensor]]:
    """(images, passes they had before) of every network batch, (size,) int64 each, on the CPU.

    Images with more passes left go first, then those that come first. No other order needs fewer
    batches than that: max(max(passes), ceil(sum(passes) / slots)). Among the batch sizes that
    allow it the smallest is taken, so that batches are even; only the last ones are smaller.

    Args:
        passes: (images,) int64 >= 0 on the CPU.
        slots: largest batch, >= 1.
        granularity: batch sizes are multiples of it, or `slots`; what is missing is padded with
            image -1. 1 pads nothing.

    Source: McNaughton 1959 (the bound); Hu 1961 (longest remaining chain first).
    """
    if slots < 1 or granularity < 1:
        raise ValueError(f"need slots >= 1 and granularity >= 1, got {slots} and {granularity}")
    count, total = len(passes), int(passes.sum())
    if total == 0:
        return []
    batches = max(int(passes.max()), -(-total // slots))
    width = min(slots, _rounded_up(-(-total // batches), granularity))
    # One number per image, larger for more passes left and, among equals, for smaller indices.
    urgency = passes * count - torch.arange(count)
    done = torch.zeros_like(passes)
    plan = []
    while total > 0:
        size = min(width, int((urgency > 0).sum()))
        images = urgency.topk(size, sorted=False).indices.sort().values
        before = done[images]
        urgency[images] -= count
        done[images] += 1
        total -= size
        missing = min(slots, _rounded_up(size, granularity)) - size
        if missing:
            images = torch.cat([images, images.new_full((missing,), PADDING)])
            before = torch.cat([before, before.new_zeros(missing)])
        plan.append((images, before))
    return plan


@dataclass(frozen=True)
class Moves:
    """What a solve does, in numbers that the host knows in advance.

    Images lie in rows. A pass reads one row of each of its images and writes another one, so that
    doing it twice does no harm. Of an image with index j, row j holds the state after an even
    number of passes, row j + capacity that after an odd number, and row j + (2 + k) * capacity the
    k-th state that is kept. Padded slots work on the row after the last one.
    """

    start: Tensor  # (images,) grid index of every image
    first: Tensor  # (images,) row of every image before its first pass
    last: Tensor  # (kept or 1, images) row of the states that are asked for
    batches: list[Tensor]  # (3, size) row to read, row to write, column of the table

    @staticmethod
    def scratch(capacity: int, kept: int) -> int:
        """Row of the padded slots, of which modulo `capacity` is a valid image: 0."""
        return (2 + kept) * capacity

    def to(self, device: torch.device) -> Moves:
        """The same on another device, by one copy that a GPU need not be waited for."""
        parts = [self.start, self.first, self.last, *self.batches]
        packed = torch.cat([part.reshape(-1) for part in parts])
        if device.type == "cuda":
            packed = packed.pin_memory()
        packed = packed.to(device, non_blocking=True)
        ends = list(accumulate(part.numel() for part in parts))
        starts = [0, *ends[:-1]]
        moved = [packed[a:b].view(p.shape) for a, b, p in zip(starts, ends, parts, strict=True)]
        return Moves(moved[0], moved[1], moved[2], moved[3:])


def moves(
    plan: list[tuple[Tensor, Tensor]],
    start: Tensor,
    columns: Tensor,
    asked: Tensor,
    capacity: int,
    idle: int,
    keep: bool = False,
) -> Moves:
    """Rows and columns of every batch of a plan.

    Args:
        plan: what `schedule` returned.
        start: (images,) grid index of every image.
        columns: (images, most passes) column of the table for every pass.
        asked: (kept, images) number of passes after which a state is asked for.
        capacity: rows per part of the memory, >= images.
        idle: column for padded slots.
        keep: give the states that are asked for rows of their own; without, `asked` is (1, images)
            and holds the number of passes of every image.
    """
    images, most = columns.shape
    each = torch.arange(images)[:, None]
    rows = each + capacity * (torch.arange(most + 1) % 2)
    kept = len(asked) if keep else 0
    for k in range(kept):
        rows[each[:, 0], asked[k]] = each[:, 0] + (2 + k) * capacity
    scratch, batches = Moves.scratch(capacity, kept), []
    if plan:
        image, before = (torch.cat(parts) for parts in zip(*plan, strict=True))
        entries = torch.stack(
            [rows[image, before], rows[image, before + 1], columns[image, before]]
        )
        padded = image == PADDING
        entries[:2, padded], entries[2, padded] = scratch, idle
        batches = [b.contiguous() for b in entries.split([len(i) for i, _ in plan], dim=1)]
    return Moves(start, rows[:, 0], rows[each[:, 0], asked], batches)


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
