"""Arrays of images in a .npz file: samples of CTM and OpenAI's repositories, or one's own."""

from __future__ import annotations

import math
import struct
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .archive import checked_members, opened_archive
from .dataset import ImageDataset
from .edm_labels import MAX_CLASSES, MAX_LABEL_DIM
from .handles import Handle
from .npy import Header, read_array, read_header

IMAGES = ("images", "arr_0")
LABELS = ("labels", "arr_1")
LAYOUTS = ("NHWC", "NCHW")
MAX_BYTES = 2**42  # of an array that stays on the disk
MAX_MEMORY = 2**32  # of an array that is held in memory because it is compressed
CHECKSUM_UP_TO = 2**32  # bytes of an array on the disk that are compared with its checksum

_MAX_RATIO = 1100  # deflate itself cannot do more


class Npz(ImageDataset):
    """Images of a .npz file: `arr_0` or `images`, with labels in `arr_1` or `labels` if there.

    An array that `numpy.savez` stored uncompressed stays on the disk and is mapped into memory; one
    of `numpy.savez_compressed` is unpacked. Arrays of objects, which would be pickles, are refused.

    Args:
        path: the file.
        layout: "NHWC" or "NCHW"; None sees it from the number of channels, which is 1 or 3.

    Raises:
        ValueError: for a damaged file, no images, images that are not (N, H, W, C), (N, C, H, W) or
            (N, H, W) uint8, a layout that could be either, or labels that do not fit.
    """

    format = "npz arrays"

    def __init__(self, path: str | Path, layout: str | None = None) -> None:
        self.path = Path(path)
        with opened_archive(self.path) as archive:
            limits = {f"{key}.npy": MAX_BYTES for key in (*IMAGES, *LABELS)}
            members = checked_members(archive, str(path), limits, _MAX_RATIO)
            arrays = {member.filename.removesuffix(".npy"): member for member in members}
            key = _only(arrays, IMAGES, str(path))
            if key is None:
                raise ValueError(
                    f"{path} has no array {' or '.join(map(repr, IMAGES))}, only {sorted(arrays)}"
                )
            what = f"{path}:{key}"
            header = _header(archive, arrays[key], what)
            self._channels_last, shape = _layout(header, layout, what)
            if arrays[key].compress_type == zipfile.ZIP_STORED:
                _compare_checksum(archive, arrays[key], what)
                offset = _offset(self.path, arrays[key], what) + header.length
                self._array = Handle(partial(_mapped, self.path, header, offset))
            else:
                self._array = Handle(partial(_kept, _unpacked(archive, arrays[key], header, what)))
            labels = None
            if (label_key := _only(arrays, LABELS, str(path))) is not None:
                labels = _labels(archive, arrays[label_key], header.shape[0], f"{path}:{label_key}")
        self._count = header.shape[0]
        super().__init__(self.path.stem, shape, labels)

    def __len__(self) -> int:
        return self._count

    def pixels(self, indices: Tensor) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(self._array()[indices.numpy()]))
        if pixels.ndim == 3:
            return pixels[:, None]
        return pixels.permute(0, 3, 1, 2).contiguous() if self._channels_last else pixels


def _only(arrays: dict[str, zipfile.ZipInfo], keys: tuple[str, ...], source: str) -> str | None:
    found = [key for key in keys if key in arrays]
    if len(found) > 1:
        raise ValueError(f"{source} has {' and '.join(map(repr, found))}; allowed is one of them")
    return found[0] if found else None


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, what: str) -> Header:
    try:
        with archive.open(member) as file:
            return read_header(file, member.file_size)
    except Exception as error:  # zipfile and zlib raise many kinds on damaged archives
        raise ValueError(f"{what} is refused: {error}") from None


def _layout(header: Header, layout: str | None, what: str) -> tuple[bool, tuple[int, int, int]]:
    """Whether channels come last, and (C, H, W)."""
    if layout not in (None, *LAYOUTS):
        raise ValueError(f"unknown layout {layout!r}; allowed are {LAYOUTS}")
    shape = header.shape
    if header.dtype != np.uint8 or len(shape) not in (3, 4) or 0 in shape:
        raise ValueError(
            f"{what} is {shape} {header.dtype}; allowed are (N, H, W, C), (N, C, H, W) and "
            "(N, H, W) uint8"
        )
    if len(shape) == 3:
        return False, (1, shape[1], shape[2])
    last, first = shape[3] in (1, 3), shape[1] in (1, 3)
    if layout is None and last and first:
        raise ValueError(f"{what} is {shape}, which is NHWC or NCHW; pass layout=...")
    if not (last if layout == "NHWC" else first if layout == "NCHW" else last or first):
        raise ValueError(f"{what} is {shape}; allowed are 1 and 3 channels ({layout or 'any'})")
    if layout == "NHWC" or (layout is None and last):
        return True, (shape[3], shape[1], shape[2])
    return False, (shape[1], shape[2], shape[3])


def _unpacked(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, header: Header, what: str
) -> np.ndarray:
    if member.file_size > MAX_MEMORY:
        raise ValueError(
            f"{what} unpacks to {member.file_size} bytes, allowed are {MAX_MEMORY}; an array that "
            "is stored uncompressed (numpy.savez) may be larger"
        )
    try:
        with archive.open(member) as file:
            return read_array(file, header)
    except Exception as error:  # as above
        raise ValueError(f"{what} is damaged: {error}") from None


def _compare_checksum(archive: zipfile.ZipFile, member: zipfile.ZipInfo, what: str) -> None:
    if member.compress_size != member.file_size:
        # zipfile would compare the bytes that are there; the mapping would go beyond them.
        raise ValueError(
            f"{what} is damaged: {member.compress_size} bytes, it claims {member.file_size}"
        )
    if member.file_size > CHECKSUM_UP_TO:
        return
    try:
        with archive.open(member) as file:
            while file.read(2**22):
                pass
    except Exception as error:  # as above
        raise ValueError(f"{what} is damaged: {error}") from None


def _labels(archive: zipfile.ZipFile, member: zipfile.ZipInfo, count: int, what: str) -> Tensor:
    header = _header(archive, member, what)
    shape = header.shape
    if not shape or shape[0] != count:
        raise ValueError(f"{what} is {shape}; allowed is one label for each of {count} images")
    values = _unpacked(archive, member, header, what)
    if header.dtype.kind in "iu" and math.prod(shape) == count:
        values = values.reshape(count)
        if int(values.min()) < 0 or int(values.max()) >= MAX_CLASSES:
            wrong = int(values.min()) if int(values.min()) < 0 else int(values.max())
            raise ValueError(f"{what}: class {wrong}, allowed are 0 to {MAX_CLASSES - 1}")
        return torch.from_numpy(values.astype(np.int64))
    if header.dtype.kind in "iuf" and len(shape) == 2 and 1 < shape[1] <= MAX_LABEL_DIM:
        vectors = torch.from_numpy(values.astype(np.float32))
        if bool(torch.isfinite(vectors).all()):
            return vectors
    raise ValueError(
        f"{what} is {shape} {header.dtype}; allowed are whole numbers (N,) and finite vectors "
        "(N, label_dim)"
    )


def _offset(path: Path, member: zipfile.ZipInfo, what: str) -> int:
    """Where the content of an uncompressed member begins."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        local = file.read(30)
    if len(local) != 30 or local[:4] != b"PK\x03\x04":
        raise ValueError(f"{what} is damaged: it does not begin where the archive says")
    name, extra = struct.unpack_from("<HH", local, 26)
    return int(member.header_offset + 30 + name + extra)


def _mapped(path: Path, header: Header, offset: int) -> np.ndarray:
    order = "F" if header.fortran else "C"
    try:
        return np.memmap(path, np.uint8, "r", offset, header.shape, order)  # type: ignore[call-overload]
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be mapped into memory: {error}") from None


def _kept(array: np.ndarray) -> np.ndarray:
    return array
