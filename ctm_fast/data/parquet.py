"""Images in parquet files as the Hugging Face Hub keeps them, for example uoft-cs/cifar10."""

from __future__ import annotations

import bisect
import io
import re
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .dataset import ImageDataset
from .decode import decoded, image_shape
from .handles import Handle
from .parquet_shards import Shards, described, integers
from .resize import check_resize, resize_details

MAX_SHARDS = 10_000
MAX_ROWS = 2**27
IMAGE_COLUMNS = ("img", "image", "jpg", "png", "webp")
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls")

_SHARD = re.compile(r"(?P<split>[\w.]+?)-(?P<number>\d{5})-of-(?P<count>\d{5})\.parquet")


class Parquet(ImageDataset):
    """Encoded images (`bytes`) and integer labels of one parquet file or a folder of shards.

    Row groups are read when their images are asked for, and the last ones are kept (256 MiB).
    Class names are taken from what the `datasets` library notes in the file.

    Args:
        path: a .parquet file, or a folder with such files in it, in `data` or in `plain_text`.
        size: None if all images have one size; otherwise the side to which they are brought.
        resize: how, one of `resize.RULES`.
        split: of a folder whose files are named like "train-00000-of-00002.parquet"; None is
            "train", or the only one there is.
        image: name of the image column; None takes the usual one.
        label: name of the label column; None takes the usual one, if it is there.

    Raises:
        ImportError: without pyarrow.
        ValueError: for a damaged file, a missing shard, columns of another kind, null images, or
            labels that are not whole numbers.
    """

    format = "parquet"

    def __init__(
        self,
        path: str | Path,
        size: int | None = None,
        resize: str = "crop",
        split: str | None = None,
        image: str | None = None,
        label: str | None = None,
    ) -> None:
        check_resize(size, resize)
        self.path, self.size, self.resize = Path(path), size, resize
        self.split, files = _files(self.path, split)
        columns = described(files[0])
        image = columns.image(image, IMAGE_COLUMNS)
        label = columns.label(label, LABEL_COLUMNS)
        self._shards = Handle(partial(Shards, files, image))
        rows = self._shards().rows  # of each row group of each file
        self._groups = [(f, g) for f, groups in enumerate(rows) for g in range(len(groups))]
        self._ends = list(accumulate(count for groups in rows for count in groups))
        if not self._ends or not 1 <= self._ends[-1] <= MAX_ROWS:
            count = self._ends[-1] if self._ends else 0
            raise ValueError(f"{path} has {count} images, allowed are 1 to {MAX_ROWS}")
        labels = None
        names = columns.class_names.get(label or "", ())
        if label is not None:
            labels = torch.from_numpy(np.concatenate([integers(file, label) for file in files]))
            if len(labels) != self._ends[-1]:
                raise ValueError(f"{path} has {len(labels)} labels for {self._ends[-1]} images")
            if int(labels.max()) < 0:
                labels = None  # the Hub's sign for labels that are kept secret
        shape = image_shape(io.BytesIO(self._bytes([0])[0]), self._where(0), size)
        name = self.path.resolve().stem + (f"-{self.split}" if self.split else "")
        number = len(names) if names and labels is not None else None
        super().__init__(name, shape, labels, number)
        self.class_names = names if labels is not None else ()

    def __len__(self) -> int:
        return self._ends[-1]

    def pixels(self, indices: Tensor) -> Tensor:
        wanted = indices.tolist()
        images = [
            decoded(io.BytesIO(data), self._where(index), self.shape, self.size, self.resize)
            for index, data in zip(wanted, self._bytes(wanted), strict=True)
        ]
        return torch.from_numpy(np.stack(images)) if images else torch.empty(0, *self.shape).byte()

    def details(self) -> dict[str, Any]:
        split = {"split": self.split} if self.split else {}
        return {**split, **resize_details(self.size, self.resize)}

    def _where(self, index: int) -> str:
        return f"{self.path}: image {index}"

    def _bytes(self, indices: list[int]) -> list[bytes]:
        found: dict[int, bytes] = {}
        # Sorted, so that each row group is read once for a batch.
        for index in sorted(set(indices)):
            number = bisect.bisect_right(self._ends, index)
            row = index - (self._ends[number - 1] if number else 0)
            found[index] = self._shards().image(*self._groups[number], row)
        return [found[index] for index in indices]


def is_parquet(folder: Path) -> bool:
    """Whether a folder has parquet files where `Parquet` looks for them."""
    return bool(_listed(folder))


def _listed(folder: Path) -> list[Path]:
    for place in (folder, folder / "data", folder / "plain_text"):
        files = [p for p in place.glob("*.parquet") if p.is_file() and p.name[0] != "."]
        if files:
            return sorted(files)
    return []


def _files(path: Path, split: str | None) -> tuple[str | None, list[Path]]:
    """The split, if the files tell, and its files in order."""
    if path.is_file():
        if split is not None:
            raise ValueError(f"split={split!r} for the single file {path}; allowed is none")
        return None, [path]
    files = _listed(path)
    if not 1 <= len(files) <= MAX_SHARDS:
        raise ValueError(f"{path} has {len(files)} parquet files, allowed are 1 to {MAX_SHARDS}")
    shards = [(_SHARD.fullmatch(file.name), file) for file in files]
    if not any(match for match, _ in shards):
        if split is not None:
            raise ValueError(f"{path} has no files named like '{split}-00000-of-00001.parquet'")
        return None, files
    splits: dict[str, list[tuple[int, int, Path]]] = {}
    for match, file in shards:
        if match is None:
            raise ValueError(f"{file} is not named like 'train-00000-of-00001.parquet', others are")
        number, count = int(match["number"]), int(match["count"])
        splits.setdefault(match["split"], []).append((number, count, file))
    chosen = split or ("train" if "train" in splits else next(iter(splits)))
    if chosen not in splits or (split is None and chosen != "train" and len(splits) > 1):
        raise ValueError(f"{path} has the splits {sorted(splits)}; pass one of them as split=...")
    parts = splits[chosen]
    count = max(count for _, count, _ in parts)
    if [(number, of) for number, of, _ in parts] != [(i, count) for i in range(count)]:
        raise ValueError(f"{path} has {len(parts)} files of {chosen!r}, not all of {count}")
    return chosen, [file for _, _, file in parts]
