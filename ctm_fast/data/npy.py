"""The .npy format without pickles: a header that is checked, then numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.lib import format as npy

_CHUNK = 2**22  # bytes read at once
_KINDS = "biuf"


@dataclass(frozen=True)
class Header:
    """What a .npy file holds."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool  # whether the first index runs fastest
    length: int  # bytes of the file before the numbers


def read_header(file: IO[bytes], size: int) -> Header:
    """The header of a .npy file of `size` bytes, read from its beginning.

    Raises:
        ValueError: for no .npy file, an array of objects or structures, or one that does not fill
            the file exactly.
    """
    try:
        version = npy.read_magic(file)
        if version != (1, 0):
            # Later ones are for structures; NumPy would read a header of up to 4 GiB first.
            raise ValueError(f".npy version {version}, allowed is (1, 0)")
        shape, fortran, dtype = npy.read_array_header_1_0(file)
    except Exception as error:  # NumPy evaluates the header as a literal, which raises many kinds
        raise ValueError(f"no readable .npy header: {error}") from None
    if dtype.hasobject:
        raise ValueError("an array of objects, which only a pickle can hold; it was not read")
    if dtype.kind not in _KINDS or dtype.subdtype is not None:
        raise ValueError(f"an array of {dtype!s:.80}, allowed are plain numbers")
    if any(type(length) is not int or length < 0 for length in shape):
        raise ValueError(f"an array of shape {shape!s:.80}")
    length = file.tell()
    if length + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{shape!s:.80} {dtype} does not fit a file of {size} bytes")
    return Header(shape, dtype, fortran, length)


def read_array(file: IO[bytes], header: Header) -> np.ndarray:
    """The numbers; `file` is at its beginning.

    Raises:
        ValueError: if the file ends early.
    """
    flat = np.empty(math.prod(header.shape), header.dtype)
    target = flat.view(np.uint8)
    skipped = len(file.read(header.length))
    at = 0
    while at < len(target):
        part = file.read(min(_CHUNK, len(target) - at))
        if not part:
            break
        target[at : at + len(part)] = np.frombuffer(part, np.uint8)
        at += len(part)
    # The end must be read for zipfile to compare the checksum.
    if skipped != header.length or at < len(target) or file.read(1):
        raise ValueError("it has another length than its header says")
    return flat.reshape(header.shape, order="F" if header.fortran else "C")
