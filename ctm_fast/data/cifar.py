"""CIFAR-10 and CIFAR-100 in their "python version": a folder, or the published .tar.gz."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .cifar_batch import PIXELS, read_batch
from .dataset import ArrayDataset
from .tarball import tar_members

MAX_BATCH_BYTES = 2**28


@dataclass(frozen=True, eq=False)
class Published:
    """Names and contents of one of the two sets."""

    name: str
    folder: str
    splits: dict[str, tuple[str, ...]]  # files of "train" and "test"
    meta: str  # file with the names of the classes
    class_names: str  # their entry in it
    labels: str  # entry of the classes in a batch
    md5: dict[str, str]  # of the files as published


PUBLISHED = (
    Published(
        "cifar10",
        "cifar-10-batches-py",
        {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
        "batches.meta",
        "label_names",
        "labels",
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
            "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
    ),
    Published(
        "cifar100",
        "cifar-100-python",
        {"train": ("train",), "test": ("test",)},
        "meta",
        "fine_label_names",
        "fine_labels",
        {
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "meta": "7973b15100ade9c7d40fb424638fde48",
        },
    ),
)


class CIFAR(ArrayDataset):
    """CIFAR-10 or CIFAR-100, (3, 32, 32) with ten or a hundred classes, held in memory.

    The batches are pickles; they are read without running anything of them. `info()["files"]` says
    of each file whether it is the published one, by its MD5 sum.

    Args:
        path: folder `cifar-10-batches-py` or `cifar-100-python`, a folder that holds one of them,
            or the .tar.gz, which is read in place.
        split: "train" or "test".

    Raises:
        ValueError: for another split, missing files, a damaged file, or one with other content.

    Source: A. Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
    """

    format = "CIFAR python batches"

    def __init__(self, path: str | Path, split: str = "train") -> None:
        if split not in ("train", "test"):
            raise ValueError(f"unknown split {split!r}; allowed are 'train' and 'test'")
        self.path, self.split = Path(path), split
        published, contents = _contents(self.path, split)
        meta = read_batch(contents[published.meta], f"{path}:{published.meta}")
        names = meta.get(published.class_names)
        if type(names) is not list or not names or not all(type(n) is str for n in names):
            raise ValueError(f"{path}:{published.meta} has no list {published.class_names!r}")
        images, labels = [], []
        for file in published.splits[split]:
            values, classes = _batch(contents[file], published.labels, f"{path}:{file}")
            images.append(values)
            labels += classes
        wrong = [label for label in labels if not 0 <= label < len(names)]
        if wrong:
            raise ValueError(f"{path}: class {wrong[0]}, allowed are 0 to {len(names) - 1}")
        pixels = np.concatenate(images).reshape(-1, 3, 32, 32)
        name = published.name if split == "train" else f"{published.name}-test"
        super().__init__(pixels, np.array(labels, np.int64), name, len(names))
        self.class_names = tuple(names)
        self.files = {
            file: _compared(content, published.md5.get(file)) for file, content in contents.items()
        }

    def details(self) -> dict[str, Any]:
        return {"split": self.split, "files": self.files}


def is_cifar(folder: Path) -> bool:
    """Whether a folder holds one of the two sets, or is one."""
    return any(_place(folder, published) is not None for published in PUBLISHED)


def _place(folder: Path, published: Published) -> Path | None:
    for place in (folder, folder / published.folder):
        if (place / published.meta).is_file() and any(
            (place / file).is_file() for files in published.splits.values() for file in files
        ):
            return place
    return None


def _contents(path: Path, split: str) -> tuple[Published, dict[str, bytes]]:
    """Which set it is, and the content of the files that the split needs."""
    files = {p: (*p.splits[split], p.meta) for p in PUBLISHED}
    in_tar = {}
    if not path.is_dir():
        in_tar = tar_members(path, {f"{p.folder}/{file}" for p in files for file in files[p]})
    partly = ""
    for published, wanted in files.items():
        place = _place(path, published)
        found = {} if place is None else _files(place, wanted)
        for file in wanted:
            if f"{published.folder}/{file}" in in_tar:
                found[file] = in_tar[f"{published.folder}/{file}"]
        if len(found) == len(wanted):
            return published, found
        if found:
            partly = f"{published.folder} without {', '.join(sorted(set(wanted) - set(found)))}"
    folders = " or ".join(published.folder for published in PUBLISHED)
    raise ValueError(f"{path} has {partly or f'no {folders}'}")


def _files(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    found = {}
    for name in names:
        file = folder / name
        if not file.is_file():
            continue
        if file.stat().st_size > MAX_BATCH_BYTES:
            size = file.stat().st_size
            raise ValueError(f"{file} has {size} bytes, allowed are {MAX_BATCH_BYTES}")
        found[name] = file.read_bytes()
    return found


def _batch(content: bytes, entry: str, source: str) -> tuple[np.ndarray, list[int]]:
    batch = read_batch(content, source)
    values, labels = batch.get("data"), batch.get(entry)
    if not isinstance(values, np.ndarray) or len(values) == 0:
        raise ValueError(f"{source} has no array 'data' of (N, {PIXELS}) bytes")
    if type(labels) is not list or not all(type(label) is int for label in labels):
        raise ValueError(f"{source} has no list {entry!r} of whole numbers")
    if len(labels) != len(values):
        raise ValueError(f"{source} has {len(labels)} labels for {len(values)} images")
    return values, labels


def _compared(content: bytes, md5: str | None) -> str:
    if md5 is None:
        return "no published checksum"
    same = hashlib.md5(content, usedforsecurity=False).hexdigest() == md5
    return "as published" if same else "not the published file"
