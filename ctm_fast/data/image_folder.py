"""Folders of image files: a class per sub-folder, flat, or with EDM's dataset.json."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .dataset import ImageDataset, spread
from .decode import decoded, image_shape, is_image_name
from .edm_labels import LABEL_FILE, MAX_BYTES, parsed_labels
from .resize import check_resize, resize_details

SPLITS = ("train", "val", "valid", "validation", "test")  # sub-folders that are no classes

_HEADERS_CHECKED = 1000  # files whose size is checked when opening, the rest on reading


class ImageFolder(ImageDataset):
    """png, jpg, webp and bmp files below a folder, decoded when they are asked for.

    If the folder has sub-folders with images, each is a class, numbered in the order of their
    sorted names; images directly in the folder make a set without classes. A `dataset.json` in the
    folder (EDM's format) takes precedence and sub-folders then mean nothing. Hidden files are
    ignored, links are followed. Files are in the order of their sorted names.

    ILSVRC's layout (`train/n01440764/*.JPEG`) is known: where all sub-folders are named like splits
    and "train" holds classes, one of them is the set.

    Args:
        path: the folder.
        size: None if all images have one size; otherwise the side to which they are brought.
        resize: how: "crop" (the largest centred square, box averaging down, bicubic up) or "adm"
            (the rule of ADM, CM and CTM for ImageNet), see `resize.RULES`.
        split: sub-folder that is the set; None takes "train" in ILSVRC's layout, else the folder.

    Raises:
        ValueError: if `path` is no folder, has no images or not that split, images both beside and
            inside sub-folders, images of different sizes without `size`, or an unreadable image.
    """

    format = "folder of images"

    def __init__(
        self,
        path: str | Path,
        size: int | None = None,
        resize: str = "crop",
        split: str | None = None,
    ) -> None:
        check_resize(size, resize)
        self.root = Path(path)
        if not self.root.is_dir():
            raise ValueError(f"{path} is not a folder")
        self.size, self.resize = size, resize
        name = self.root.resolve().name
        self.split = _chosen_split(self.root, split)
        if self.split is not None:
            self.root, name = self.root / self.split, f"{name}-{self.split}"
        self._names = _image_names(self.root)
        if not self._names:
            raise ValueError(f"{self.root} has no png, jpg, webp or bmp image")
        labels = self._read_labels()
        super().__init__(name, self._common_shape(), labels)

    def __len__(self) -> int:
        return len(self._names)

    def pixels(self, indices: Tensor) -> Tensor:
        images = [self._decoded(index) for index in indices.tolist()]
        return torch.from_numpy(np.stack(images)) if images else torch.empty(0, *self.shape).byte()

    def details(self) -> dict[str, Any]:
        split = {"split": self.split} if self.split else {}
        return {**split, **resize_details(self.size, self.resize)}

    def _decoded(self, index: int) -> np.ndarray:
        path = self.root / self._names[index]
        return decoded(path, str(path), self.shape, self.size, self.resize)

    def _read_labels(self) -> Tensor | None:
        file = self.root / LABEL_FILE
        if file.is_file():
            if file.stat().st_size > MAX_BYTES:
                raise ValueError(f"{file} has {file.stat().st_size} bytes, allowed are {MAX_BYTES}")
            return parsed_labels(file.read_bytes(), self._names, str(self.root))
        folders = [name.split("/")[0] if "/" in name else None for name in self._names]
        classes = sorted({folder for folder in folders if folder is not None})
        if not classes:
            return None
        if None in folders:
            beside = self._names[folders.index(None)]
            raise ValueError(
                f"{self.root} has images both in sub-folders ({classes[0]!r}) and beside them "
                f"({beside!r}); allowed is one or the other"
            )
        self.class_names = tuple(classes)
        number = {name: index for index, name in enumerate(classes)}
        return torch.tensor([number[str(folder)] for folder in folders])

    def _common_shape(self) -> tuple[int, int, int]:
        shapes: dict[tuple[int, int, int], str] = {}
        for index in spread(len(self._names), _HEADERS_CHECKED).tolist():
            path = self.root / self._names[index]
            shapes.setdefault(image_shape(path, str(path), self.size), self._names[index])
        # Grey files fit into a colour data set.
        channels = max(shape[0] for shape in shapes)
        sizes = {(width, height): name for (_, height, width), name in shapes.items()}
        if len(sizes) > 1:
            (first, one), (second, other) = list(sizes.items())[:2]
            raise ValueError(
                f"{self.root} has images of different sizes, for example {one} "
                f"{first[0]}x{first[1]} and {other} {second[0]}x{second[1]}; pass size=... to crop "
                f"and resize them"
            )
        width, height = next(iter(sizes))
        return (channels, height, width)


def _chosen_split(root: Path, split: str | None) -> str | None:
    folders = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if split is not None:
        if split not in folders:
            raise ValueError(f"{root} has no split {split!r}; its sub-folders are {folders[:9]}")
        return split
    if "train" not in folders or set(folders) - set(SPLITS) or (root / LABEL_FILE).is_file():
        return None
    # A class may be called "train" too; then its images lie directly in it.
    inside = list((root / "train").iterdir())
    holds_images = any(is_image_name(path.name) for path in inside)
    return "train" if not holds_images and any(path.is_dir() for path in inside) else None


def _image_names(root: Path) -> list[str]:
    names = []
    # Subsets are often folders of links to classes; one back to a folder above would never end.
    above: dict[str, tuple[str, ...]] = {os.fspath(root): (os.path.realpath(root),)}
    for folder, folders, files in os.walk(root, followlinks=True):
        inside, folders[:] = above.pop(folder), sorted(f for f in folders if f[0] != ".")
        for name in list(folders):
            path = os.path.join(folder, name)
            place = os.path.realpath(path)
            above[path] = (*inside, place)
            if place in inside:
                folders.remove(name)
        start = "" if folder == os.fspath(root) else Path(folder).relative_to(root).as_posix() + "/"
        names += [start + file for file in files if is_image_name(file) and file[0] != "."]
    return sorted(names)
