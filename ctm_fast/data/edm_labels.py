"""EDM's label file, `dataset.json`: {"labels": [[file name, class or vector], ...]}."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

LABEL_FILE = "dataset.json"
MAX_BYTES = 2**29  # of dataset.json; the one of ImageNet has about 2**26
MAX_CLASSES = 2**20
MAX_LABEL_DIM = 2**16


def parsed_labels(text: bytes, names: Sequence[str], source: str) -> Tensor | None:
    """Labels of the images `names`, in that order.

    Args:
        text: content of `dataset.json`.
        names: image file names relative to the folder of `dataset.json`, with "/".
        source: what errors call the data set.

    Returns:
        (N,) int64 classes, (N, label_dim) float32 vectors, or None if the file has no labels.

    Raises:
        ValueError: if the text is not of the form above, an image has no label or two different
            ones, or labels are neither classes in [0, 2**20) nor finite vectors of one length.
    """
    table = _table(text, source)
    if table is None:
        return None
    missing = [name for name in names if name not in table]
    if missing:
        raise ValueError(
            f"{source}: {LABEL_FILE} has no label for {len(missing)} of {len(names)} images, "
            f"for example {missing[0]!r}"
        )
    labels = [table[name] for name in names]
    if all(type(label) is int for label in labels):
        wrong = [label for label in labels if not 0 <= label < MAX_CLASSES]
        if wrong:
            raise ValueError(f"{source}: class {wrong[0]}, allowed are 0 to {MAX_CLASSES - 1}")
        return torch.tensor(labels, dtype=torch.int64)
    if all(isinstance(label, list) for label in labels):
        return _vectors(labels, source)
    kinds = sorted({type(label).__name__ for label in labels})
    raise ValueError(
        f"{source}: labels of kind {kinds}; allowed are all int or all lists of numbers"
    )


def _table(text: bytes, source: str) -> dict[str, Any] | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: {LABEL_FILE} is not valid JSON: {error}") from error
    pairs = content.get("labels") if isinstance(content, dict) else content
    if isinstance(content, dict) and pairs is None:
        return None
    if not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
        raise ValueError(
            f"{source}: {LABEL_FILE} must be {{'labels': [[name, label], ...]}} or null"
        )
    table: dict[str, Any] = {}
    for name, label in pairs:
        name = name.replace("\\", "/")
        if table.setdefault(name, label) != label:
            raise ValueError(f"{source}: {LABEL_FILE} has two different labels for {name!r}")
    return table


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)


def _vectors(labels: list[list[Any]], source: str) -> Tensor:
    length = len(labels[0])
    if not 1 <= length <= MAX_LABEL_DIM or any(len(label) != length for label in labels):
        raise ValueError(
            f"{source}: label vectors must have one length from 1 to {MAX_LABEL_DIM}, "
            f"found {sorted({len(label) for label in labels})[:5]}"
        )
    for label in labels:
        if not all(type(value) in (int, float) and _is_float32(value) for value in label):
            raise ValueError(f"{source}: label vectors must hold finite numbers, found {label[:5]}")
    return torch.tensor(labels, dtype=torch.float32)


def _is_float32(value: float) -> bool:
    # False for NaN too; whole numbers of any size compare without becoming floats.
    largest = torch.finfo(torch.float32).max
    return -largest <= value <= largest
