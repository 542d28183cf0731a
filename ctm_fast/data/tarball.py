"""Named members of a .tar.gz, read in one pass through it. Nothing is ever extracted."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import BinaryIO

MAX_UNPACKED = 2**29  # bytes of the whole archive; CIFAR-10 and CIFAR-100 have less than 2**28
MAX_MEMBERS = 10_000


def tar_members(path: Path, names: Collection[str]) -> dict[str, bytes]:
    """Content of the members "folder/name", those of `names` that are there.

    Other members are passed over, whatever their names.

    Raises:
        ValueError: for a damaged archive, one that unpacks to more than 2**29 bytes or has more
            than 10000 members, or a wanted name that is repeated or no regular file.
    """
    found: dict[str, bytes] = {}
    try:
        with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) as unpacked:
            stream = _Limited(unpacked, MAX_UNPACKED)
            with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
                for number, member in enumerate(archive):
                    if number >= MAX_MEMBERS:
                        raise _Refused(f"has more than {MAX_MEMBERS} members")
                    name = PurePosixPath(member.name).as_posix()
                    if name not in names:
                        continue
                    if name in found or not member.isreg() or member.issparse():
                        raise _Refused(f"has {name!r} twice or not as a regular file")
                    file = archive.extractfile(member)
                    assert file is not None
                    found[name] = file.read()
                    if len(found[name]) != member.size:
                        raise _Refused(f"is truncated inside {name!r}")
            # What follows the last member is read too, so that gzip compares its checksum.
            while stream.read(2**20):
                pass
    except _Refused as error:
        raise ValueError(f"{path} {error}") from None
    except Exception as error:  # gzip, zlib and tarfile raise many kinds on damaged archives
        raise ValueError(f"{path} is not a readable .tar.gz archive: {error}") from None
    return found


class _Refused(Exception):
    """What is wrong with the archive, without its name."""


class _Limited:
    """A stream that gives up after `limit` bytes."""

    def __init__(self, file: gzip.GzipFile | BinaryIO, limit: int) -> None:
        self.file, self.limit, self.left = file, limit, limit

    def read(self, count: int) -> bytes:
        data = self.file.read(min(count, self.left + 1))
        self.left -= len(data)
        if self.left < 0:
            raise _Refused(f"unpacks to more than {self.limit} bytes")
        return data
