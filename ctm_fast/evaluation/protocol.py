"""How generated images are compared with real ones offline, always beside the real/real row."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ctm_fast.data.dataset import ImageDataset, spread
from ctm_fast.rng import stream

from . import metrics
from .classifier import SmallClassifier, trained_classifier

COLUMNS = ("1nn", "precision", "recall", "class_agreement", "class_score", "copies")
NEIGHBOURS = 3
MAX_BLOCK = 2500  # images per side, which bounds the cost on large data sets
MAX_REAL = 5000  # real images for the copy check and the classifier
MAX_CLASSIFIER_PIXELS = 256  # H * W up to which the small classifier is a fair judge
COPY_PERCENTILE = 1.0

_HALVES = 0x68616C766573  # keeps these streams apart from others with the same seed


class OfflineProtocol:
    """Compares any number of sample sets with one data set; prepared once.

    The real images are split into two class-stratified halves A and B of `block_size` images. The
    generated images are split into two class-balanced blocks of the same size; the first is
    compared with B, the second with A, and the two results are averaged. The real/real row is A
    against B. All pixels are clamped to [-1, 1] and rounded to 256 levels first.

    Args:
        dataset: the real images.
        seed: of the split and of the classifier.
        num_samples: how many generated images there will be; None for as many as are useful,
            `2 * block_size`.

    Raises:
        ValueError: for fewer than 8 real images or samples.
    """

    def __init__(
        self, dataset: ImageDataset, seed: int = 0, num_samples: int | None = None
    ) -> None:
        least = 2 * (NEIGHBOURS + 1)
        available = len(dataset) if num_samples is None else min(len(dataset), num_samples)
        if available < least:
            raise ValueError(f"need at least {least} real images and samples, got {available}")
        self.dataset = dataset
        self.seed = seed
        self.block_size = min(available // 2, MAX_BLOCK)
        everything = torch.arange(len(dataset))
        labels = self._classes(dataset.labels(everything))
        shuffled = torch.randperm(len(dataset), generator=stream(seed, _HALVES))
        chosen = _balanced(shuffled, labels, 2 * self.block_size)
        self._halves = tuple(quantized(dataset.images(half)) for half in _dealt(chosen))
        self._half_labels = None if labels is None else tuple(labels[h] for h in _dealt(chosen))
        known = spread(len(dataset), MAX_REAL)
        self._real = quantized(dataset.images(known))
        self._real_labels = None if labels is None else labels[known]

    @property
    def labels(self) -> Tensor | None:
        """Classes to generate, (2 * block_size,) int64: those of the real images; None without."""
        return None if self._half_labels is None else torch.cat(self._half_labels)

    @cached_property
    def classifier(self) -> SmallClassifier | None:
        """The judge of the class columns; None for data without classes or with large images."""
        _, height, width = self.dataset.shape
        if self._real_labels is None or height * width > MAX_CLASSIFIER_PIXELS:
            return None
        return trained_classifier(
            _unit(self._real), self._real_labels, self.dataset.num_classes, self.seed
        )

    @cached_property
    def copy_threshold(self) -> float:
        """Squared pixel distance below which an image counts as a copy; units of 256 levels."""
        return metrics.copy_threshold(self._real, COPY_PERCENTILE)

    def real_row(self) -> dict[str, float | None]:
        """What two sets of real images get: half A in the place of the samples, against half B."""
        a, b = self._halves
        labels = None if self._half_labels is None else self._half_labels[0]
        # Every real image is its own copy; the honest number leaves it out, and that is by
        # definition the percentile of the threshold.
        return {**self._compared(a, labels, b), "copies": COPY_PERCENTILE / 100}

    def row(self, samples: Tensor, labels: Tensor | None = None) -> dict[str, float | None]:
        """Averages over the two blocks, keys COLUMNS; None where a column has no meaning.

        Args:
            samples: (M, C, H, W) in [-1, 1], M >= 2 * block_size.
            labels: (M,) requested classes, distributed as the data's; None if there were none.

        Raises:
            ValueError: for too few samples, another shape, labels that do not fit, or values that
                are not finite.
        """
        return averaged(self.block_rows(samples, labels))

    def block_rows(
        self, samples: Tensor, labels: Tensor | None = None
    ) -> list[dict[str, float | None]]:
        """The rows of the two blocks; `row` is their average and takes the same arguments."""
        labels = self._checked(samples, labels)
        chosen = _balanced(torch.arange(len(samples)), labels, 2 * self.block_size)
        rows = []
        for block, real in zip(_dealt(chosen), reversed(self._halves), strict=True):
            images = quantized(samples[block.to(samples.device)].cpu())
            rows.append(self._compared(images, None if labels is None else labels[block], real))
        return rows

    def card(self, samples: Tensor | None = None, labels: Tensor | None = None) -> dict[str, Any]:
        """What a reader needs to reproduce and to judge the numbers; JSON types only."""
        card: dict[str, Any] = {
            "protocol": "two-block comparison in pixel space; not a Frechet distance",
            "dataset": self.dataset.info(),
            "seed": self.seed,
            "block_size": self.block_size,
            "real_row": "half A of the real images against half B",
            "pixels": "clamped to [-1, 1], rounded to 256 levels, compared as they are",
            "neighbours": NEIGHBOURS,
            "copies": f"closer to one of {len(self._real)} real images than {COPY_PERCENTILE:g} % "
            "of those are to each other",
            "copy_distance": round(self.copy_threshold**0.5, 3),
        }
        if self.classifier is not None:
            assert self._real_labels is not None
            own = self.classifier.probabilities(_unit(self._real))
            card["classifier"] = {
                "trained_on": len(self._real),
                "accuracy_there": round(metrics.class_agreement(own, self._real_labels), 4),
            }
        if samples is not None:
            card["samples"] = len(samples)
            card["label_distance"] = self._label_distance(labels)
        return card

    def _compared(
        self, images: Tensor, labels: Tensor | None, real: Tensor
    ) -> dict[str, float | None]:
        precision, recall = metrics.precision_recall(images, real, NEIGHBOURS)
        agreement = score = None
        if self.classifier is not None:
            probabilities = self.classifier.probabilities(_unit(images))
            score = metrics.class_score(probabilities)
            if labels is not None:
                agreement = metrics.class_agreement(probabilities, labels)
        return {
            "1nn": metrics.one_nn_accuracy(images, real),
            "precision": precision,
            "recall": recall,
            "class_agreement": agreement,
            "class_score": score,
            "copies": metrics.copy_fraction(images, self._real, self.copy_threshold),
        }

    def _checked(self, samples: Tensor, labels: Tensor | None) -> Tensor | None:
        if tuple(samples.shape[1:]) != self.dataset.shape:
            raise ValueError(
                f"samples {tuple(samples.shape)}: allowed are (M, *{self.dataset.shape})"
            )
        if len(samples) < 2 * self.block_size:
            raise ValueError(f"{len(samples)} samples, needed are {2 * self.block_size}")
        broken = int((~samples.isfinite()).flatten(1).any(1).sum())
        if broken:
            raise ValueError(f"{broken} of {len(samples)} samples are not finite")
        labels = self._classes(labels)
        if labels is None:
            return None
        if labels.shape != (len(samples),):
            raise ValueError(f"labels {tuple(labels.shape)} for {len(samples)} samples")
        if int(labels.min()) < 0 or int(labels.max()) >= self.dataset.num_classes:
            raise ValueError(
                f"labels from {int(labels.min())} to {int(labels.max())}: allowed are 0 to "
                f"{self.dataset.num_classes - 1}"
            )
        return labels

    def _classes(self, labels: Tensor | None) -> Tensor | None:
        # Label vectors cannot be stratified by, nor judged by a classifier.
        return labels.cpu() if labels is not None and self.dataset.num_classes > 1 else None

    def _label_distance(self, labels: Tensor | None) -> float | None:
        labels = self._classes(labels)
        if labels is None or self._real_labels is None:
            return None
        number = self.dataset.num_classes
        one, other = (
            torch.bincount(part, minlength=number).double() / len(part)
            for part in (labels, self._real_labels)
        )
        return round(float((one - other).abs().sum() / 2), 4)


def evaluate_offline(
    samples: Tensor, labels: Tensor | None, dataset: ImageDataset, seed: int = 0
) -> dict[str, Any]:
    """Offline quality of one set of samples; for several sets use `OfflineProtocol` once.

    Args:
        samples: (M, C, H, W) in [-1, 1]; 1,796 use all of the digits, fewer make smaller blocks.
        labels: (M,) requested classes, distributed as the data's; None if there were none.
        dataset: the real images.
        seed: of the split and of the classifier; the result is a function of all arguments.

    Returns:
        {"generated": row, "real": row, "blocks": two rows, "card": facts}, JSON types only. The
        keys of a row are COLUMNS: 1nn (0.5 is a perfect match), precision, recall, class_agreement,
        class_score, copies; a value is None where it has no meaning.

    Raises:
        ValueError: as `OfflineProtocol.row`, and for fewer than 8 samples.
    """
    protocol = OfflineProtocol(dataset, seed, num_samples=len(samples))
    blocks = protocol.block_rows(samples, labels)
    return {
        "generated": averaged(blocks),
        "real": protocol.real_row(),
        "blocks": blocks,
        "card": protocol.card(samples, labels),
    }


def averaged(rows: list[dict[str, float | None]]) -> dict[str, float | None]:
    """Mean of every column; None where a row has None."""
    mean: dict[str, float | None] = {}
    for key in rows[0]:
        values = [row[key] for row in rows]
        known = [value for value in values if value is not None]
        mean[key] = sum(known) / len(known) if len(known) == len(values) else None
    return mean


def quantized(images: Tensor) -> Tensor:
    """Images (N, C, H, W) in [-1, 1] as uint8; values outside are clamped."""
    return images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def _unit(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


def _balanced(order: Tensor, labels: Tensor | None, count: int) -> Tensor:
    """`count` elements of `order`, sorted by class and taken at even distances."""
    if labels is not None:
        order = order[labels[order].argsort(stable=True)]
    return order[torch.arange(count) * len(order) // count]


def _dealt(chosen: Tensor) -> tuple[Tensor, Tensor]:
    return chosen[0::2], chosen[1::2]
