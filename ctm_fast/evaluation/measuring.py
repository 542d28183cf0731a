"""Features of many images on all processes: their moments, and the features themselves if asked."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from tqdm import tqdm

from . import ranks
from .extractor import Extractor
from .images import Images
from .moments import Moments


@dataclass(frozen=True)
class Measured:
    """What was found; the same on every process."""

    moments: Moments
    features: Tensor | None  # (N, D) in the extractor's dtype, in the order of the images
    logits: Tensor | None  # (N, K)


def measured(
    images: Images,
    extractor: Extractor,
    batch_size: int = 64,
    *,
    features: bool = False,
    logits: bool = False,
    progress: bool = False,
) -> Measured:
    """Moments of all images' features, made by all processes of the group together.

    Images are cut into batches of `batch_size` whatever the number of processes, so that every
    batch, and with it every feature, is the same; only the order of the float64 sums differs.

    Args:
        images: see `Images`.
        extractor: the same on every process.
        batch_size: images per call of the extractor, >= 1.
        features: also keep the features.
        logits: also keep the logits.
        progress: show a bar on the first process.

    Raises:
        ValueError: for a batch size below 1, no images, an extractor that gives no logits where
            they are asked for; on every process.
        RuntimeError: on the other processes when one fails.
    """
    rank, _ = ranks.rank_and_size()
    error: Exception | None = None
    kept: list[list[tuple[int, Tensor]]] = [[], []]
    moments: Moments | None = None
    try:
        total = _checked(len(images), batch_size)
        # One batch too many for a process without any: it has to know the widths.
        batches = list(ranks.own_batches(total, batch_size)) or [(0, min(batch_size, total))]
        for number, (start, stop) in enumerate(
            tqdm(batches, unit="batch", disable=not progress or rank > 0)
        ):
            found = extractor(images.pixels(start, stop))
            if logits and found[1] is None:
                raise ValueError(
                    f"the extractor {extractor.name!r} gives no logits, which the Inception score "
                    "needs"
                )
            if number == 0:
                example = found
                moments = Moments(found[0].shape[1], found[0].device)
                if start < rank * batch_size:
                    break
            assert moments is not None
            moments.add(found[0])
            for keep, wanted, value in zip(kept, (features, logits), found):
                if wanted and value is not None:
                    keep.append((start, value))
    except Exception as caught:
        error = caught
    ranks.raise_together(error)
    assert moments is not None
    if not ranks.all_agree(len(moments.mean)):
        raise ValueError("the extractors of the processes give features of different widths")
    moments.merge()
    assert moments.count == total
    gathered = [
        ranks.assembled(keep, total, value) if wanted and value is not None else None
        for keep, wanted, value in zip(kept, (features, logits), example)
    ]
    return Measured(moments, gathered[0], gathered[1])


def _checked(total: int, batch_size: int) -> int:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if total < 1:
        raise ValueError("there are no images to measure")
    return total
