"""Plain arrays of .npz files: nothing pickled is read, and sizes are checked before memory is."""

from __future__ import annotations

import math
import os
import uuid
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 32 << 30  # of one array; 50,000 images of 256x256 pixels have 10 GB
MAX_RATIO = 200  # uncompressed to compressed, for arrays above RATIO_FROM bytes
RATIO_FROM = 1 << 26
_KINDS = "biufU"
_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError)


def array_names(path: Path) -> tuple[str, ...]:
    """Names of the arrays of an .npz file, sorted.

    Raises:
        ValueError: for a missing file or one that is no .npz file.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is no file")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except _DAMAGE as error:
        raise ValueError(f"{path} is no .npz file: {error}") from None
    if len(names) != len(set(names)):
        raise ValueError(f"{path} holds two arrays of one name")
    return tuple(sorted(name.removesuffix(".npy") for name in names if name.endswith(".npy")))


def read_arrays(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Those of the named arrays that an .npz file holds.

    Raises:
        ValueError: for a missing or damaged file, an array that is a pickle, or one that claims
            another size than its data have.
    """
    found = [name for name in array_names(path) if name in names]
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: _read(archive, name, path) for name in found}
    except _DAMAGE as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> Path:
    """Write an .npz file that appears complete or not at all; returns the path.

    Raises:
        ValueError: for another ending than .npz, or an array that would be pickled.
    """
    if path.suffix != ".npz":
        raise ValueError(f"files of arrays end in .npz, got {path.name!r}")
    plain = {name: np.asarray(value) for name, value in arrays.items()}
    for name, value in plain.items():
        if value.dtype.kind not in _KINDS:
            raise ValueError(f"array {name!r} has dtype {value.dtype}; it would be pickled")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        with temporary.open("xb") as file:
            np.savez(file, **plain)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _read(archive: zipfile.ZipFile, name: str, path: Path) -> np.ndarray:
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as member:
        try:
            version = np.lib.format.read_magic(member)
            if version != (1, 0):
                # Later ones are for structures; NumPy would read a header of up to 4 GiB first.
                raise ValueError(f".npy version {version}, allowed is (1, 0)")
            shape, _, dtype = np.lib.format.read_array_header_1_0(member)
            header = member.tell()
        except _DAMAGE:
            raise
        except Exception as error:  # NumPy evaluates the header, which raises many kinds
            raise ValueError(f"{path}: {name} is no plain array: {error}") from None
    if dtype.hasobject or dtype.kind not in _KINDS:
        raise ValueError(
            f"{path}: {name} has dtype {dtype}, which is not plain numbers or text; a pickle could "
            "run code and is not read"
        )
    size = math.prod(shape) * dtype.itemsize
    if size != info.file_size - header or size > MAX_BYTES:
        raise ValueError(
            f"{path}: {name} claims {size} bytes and has {info.file_size - header}; allowed are "
            f"the same number, at most {MAX_BYTES}"
        )
    packed = min(info.compress_size, path.stat().st_size)
    if size > max(RATIO_FROM, packed * MAX_RATIO):
        raise ValueError(
            f"{path}: {name} unpacks from {packed} to {size} bytes, allowed is {MAX_RATIO} to 1"
        )
    with archive.open(info) as member:
        try:
            return np.lib.format.read_array(member, allow_pickle=False)
        except ValueError as error:
            raise ValueError(f"{path}: {name} is damaged: {error}") from None
