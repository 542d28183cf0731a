"""Batch sizes that graphs are captured for, and how a batch is cut into them."""

from __future__ import annotations

from collections.abc import Sequence

LARGEST = 128  # batch of the largest bucket if nobody says otherwise


def bucket_sizes(largest: int = LARGEST) -> tuple[int, ...]:
    """1, 2, 4, 8, ... and `largest`.

    Raises:
        ValueError: if it is below 1.
    """
    if largest < 1:
        raise ValueError(f"the largest bucket is {largest}; it must be at least 1")
    return (*(2**i for i in range((largest - 1).bit_length())), largest)


def buckets(n: int, sizes: Sequence[int] = bucket_sizes()) -> list[tuple[int, int]]:
    """(images, size) of the batches in which n images run, in order.

    Full batches of the largest size come first; the rest is padded to the smallest size that
    holds it.

    Args:
        n: number of images, >= 0.
        sizes: allowed batch sizes, >= 1, in any order.

    Raises:
        ValueError: for no sizes, or sizes below 1.
    """
    if not sizes or min(sizes) < 1:
        raise ValueError(f"bucket sizes are {tuple(sizes)}; need at least one, all at least 1")
    largest = max(sizes)
    full = [(largest, largest)] * (n // largest)
    rest = n % largest
    if rest:
        full.append((rest, min(size for size in sizes if size >= rest)))
    return full
