"""Zip archives in EDM's data set format, read in place: images and maybe a dataset.json."""

from __future__ import annotations

import io
import os
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .archive import checked_members, member_bytes
from .dataset import ImageDataset
from .decode import decoded, image_shape, is_image_name
from .edm_labels import LABEL_FILE, MAX_BYTES, parsed_labels


class EDMZip(ImageDataset):
    """Images of a zip archive as EDM's dataset_tool writes it, never extracted.

    Images are in the order of their sorted names; labels are classes or vectors. The file handle
    is not part of the object: a copy that was pickled or forked opens its own.

    Args:
        path: the archive.
        size: None if all images have one size; otherwise the side to which the largest centred
            square of each image is resized.

    Raises:
        ValueError: if the file is no zip archive, is refused by the limits in `data.archive`, has
            no images, or has labels that do not fit.
    """

    def __init__(self, path: str | Path, size: int | None = None) -> None:
        self.path = Path(path)
        if size is not None and size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.size = size
        self._lock = threading.Lock()
        self._handle: zipfile.ZipFile | None = None
        self._owner = 0
        members = checked_members(self._archive(), str(path), {LABEL_FILE: MAX_BYTES})
        images = (m for m in members if is_image_name(m.filename) and not _hidden(m.filename))
        self._members = sorted(images, key=lambda member: member.filename)
        if not self._members:
            raise ValueError(f"{path} has no png, jpg, webp or bmp image")
        first = self._members[0].filename
        shape = image_shape(self._file(0), f"{path}:{first}", size)
        super().__init__(self.path.stem, shape, self._read_labels(members))

    def __len__(self) -> int:
        return len(self._members)

    def pixels(self, indices: Tensor) -> Tensor:
        images = [self._decoded(index) for index in indices.tolist()]
        return torch.from_numpy(np.stack(images)) if images else torch.empty(0, *self.shape).byte()

    def _decoded(self, index: int) -> np.ndarray:
        name = f"{self.path}:{self._members[index].filename}"
        return decoded(self._file(index), name, self.shape, self.size)

    def _file(self, index: int) -> io.BytesIO:
        return io.BytesIO(member_bytes(self._archive(), self._members[index], str(self.path)))

    def _read_labels(self, members: list[zipfile.ZipInfo]) -> Tensor | None:
        for member in members:
            if member.filename == LABEL_FILE:
                text = member_bytes(self._archive(), member, str(self.path))
                names = [image.filename for image in self._members]
                return parsed_labels(text, names, str(self.path))
        return None

    def _archive(self) -> zipfile.ZipFile:
        # A forked child shares the parent's file position, so it needs a handle of its own.
        if self._handle is None or self._owner != os.getpid():
            with self._lock:
                if self._handle is None or self._owner != os.getpid():
                    self._handle, self._owner = _opened(self.path), os.getpid()
        return self._handle

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None, "_owner": 0, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _opened(path: Path) -> zipfile.ZipFile:
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    try:
        return zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises many kinds on damaged archives
        raise ValueError(f"{path} is not a readable zip archive: {error}") from error
