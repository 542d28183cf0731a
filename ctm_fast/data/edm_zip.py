"""Zip archives in EDM's data set format, read in place: images and maybe a dataset.json."""

from __future__ import annotations

import io
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .archive import checked_members, member_bytes, opened_archive
from .dataset import ImageDataset
from .decode import decoded, image_shape, is_image_name
from .edm_labels import LABEL_FILE, MAX_BYTES, parsed_labels
from .handles import Handle
from .resize import check_resize, resize_details


class EDMZip(ImageDataset):
    """Images of a zip archive as EDM's dataset_tool writes it, never extracted.

    Images are in the order of their sorted names; labels are classes or vectors. The file handle
    is not part of the object: a copy that was pickled or forked opens its own.

    Args:
        path: the archive.
        size: None if all images have one size; otherwise the side to which they are brought.
        resize: how, one of `resize.RULES`.

    Raises:
        ValueError: if the file is no zip archive, is refused by the limits in `data.archive`, has
            no images, or has labels that do not fit.
    """

    format = "zip archive of images"

    def __init__(self, path: str | Path, size: int | None = None, resize: str = "crop") -> None:
        check_resize(size, resize)
        self.path = Path(path)
        self.size, self.resize = size, resize
        self._archive = Handle(partial(opened_archive, self.path))
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

    def details(self) -> dict[str, Any]:
        return resize_details(self.size, self.resize)

    def _decoded(self, index: int) -> np.ndarray:
        name = f"{self.path}:{self._members[index].filename}"
        return decoded(self._file(index), name, self.shape, self.size, self.resize)

    def _file(self, index: int) -> io.BytesIO:
        return io.BytesIO(member_bytes(self._archive(), self._members[index], str(self.path)))

    def _read_labels(self, members: list[zipfile.ZipInfo]) -> Tensor | None:
        for member in members:
            if member.filename == LABEL_FILE:
                text = member_bytes(self._archive(), member, str(self.path))
                names = [image.filename for image in self._members]
                return parsed_labels(text, names, str(self.path))
        return None


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
