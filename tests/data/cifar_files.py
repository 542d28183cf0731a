"""CIFAR files as Python 2 wrote them: pickles of protocol 2, made operation by operation."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FOLDER = "cifar-10-batches-py"


class Writer:
    """Writes what cPickle of Python 2 writes: strings are bytes, numbered from 1."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")
        self.memo = 0

    def remember(self) -> None:
        self.memo += 1
        self.out += (
            b"q" + bytes([self.memo]) if self.memo < 256 else b"r" + struct.pack("<I", self.memo)
        )

    def write(self, value: Any) -> None:
        if isinstance(value, bytes | str):
            data = value.encode("latin-1") if isinstance(value, str) else value
            short = len(data) < 256
            self.out += b"U" + bytes([len(data)]) if short else b"T" + struct.pack("<i", len(data))
            self.out += data
            self.remember()
        elif isinstance(value, int):
            small = 0 <= value < 256
            self.out += b"K" + bytes([value]) if small else self.larger(value)
        elif isinstance(value, list):
            self.out += b"]"
            self.remember()
            self.out += b"("
            for item in value:
                self.write(item)
            self.out += b"e"
        elif isinstance(value, dict):
            self.out += b"}"
            self.remember()
            self.out += b"("
            for name, item in value.items():
                self.write(name)
                self.write(item)
            self.out += b"u"
        else:
            self.array(value)

    def larger(self, value: int) -> bytes:
        unsigned = 0 <= value < 65536
        return b"M" + struct.pack("<H", value) if unsigned else b"J" + struct.pack("<i", value)

    def array(self, value: np.ndarray) -> None:
        self.out += b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R("
        self.out += b"K\x01" + b"".join(self.larger(n) for n in value.shape) + b"\x86"
        code = f"{value.dtype.kind}{value.dtype.itemsize}".encode()
        self.out += b"cnumpy\ndtype\nU\x02" + code + b"K\x00K\x01\x87R("
        self.out += b"K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        data = value.tobytes()
        self.out += b"T" + struct.pack("<i", len(data)) + data + b"tb"


def python_2(value: Any) -> bytes:
    """A pickle of Python 2 that holds `value`."""
    writer = Writer()
    writer.write(value)
    return bytes(writer.out + b".")


def rows(seed: int, count: int) -> np.ndarray:
    """(count, 3072) random uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def batch(seed: int, count: int = 4, **changes: Any) -> bytes:
    """A batch of `count` images."""
    content = {
        "batch_label": f"training batch {seed} of 5",
        "labels": [(seed + i) % 10 for i in range(count)],
        "data": rows(seed, count),
        "filenames": [f"leptodactylus_s_{i:06d}.png" for i in range(count)],
    }
    return python_2({k: v for k, v in (content | changes).items() if v is not None})


def meta() -> bytes:
    """The published batches.meta, to the byte."""
    return python_2({"num_cases_per_batch": 10000, "label_names": NAMES, "num_vis": 3072})


def files() -> dict[str, bytes]:
    """A whole small set by file name."""
    train = {f"data_batch_{i}": batch(i) for i in range(1, 6)}
    return {**train, "test_batch": batch(6, 3), "batches.meta": meta(), "readme.html": b"<html>"}


def write_folder(root: Path, content: dict[str, bytes] | None = None, folder: str = FOLDER) -> Path:
    """The folder of the set below `root`."""
    place = root / folder
    place.mkdir(parents=True, exist_ok=True)
    for name, data in (content or files()).items():
        (place / name).write_bytes(data)
    return place


def tar_gz(members: list[tuple[str | tarfile.TarInfo, bytes]]) -> bytes:
    """A .tar.gz of (name or TarInfo, content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        for member, content in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            info.size = len(content) if info.isreg() else 0
            out.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), 1, mtime=0)


def write_tar(path: Path, content: dict[str, bytes] | None = None, folder: str = FOLDER) -> Path:
    """The set as its authors published it."""
    members = [(f"{folder}/{name}", data) for name, data in (content or files()).items()]
    entry = tarfile.TarInfo(folder)
    entry.type = tarfile.DIRTYPE
    path.write_bytes(tar_gz([(entry, b""), *members]))
    return path
