"""Which zip archives are read: limits on members, sizes and names. Nothing is ever extracted."""

from __future__ import annotations

import re
import stat
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

MAX_MEMBERS = 5_000_000
MAX_MEMBER_BYTES = 2**26  # uncompressed, one image
MAX_TOTAL_BYTES = 2**42  # uncompressed, all members
MAX_RATIO = 200  # uncompressed to compressed, for members above _RATIO_FROM
MAX_DEPTH = 16  # folders inside folders
MAX_NAME = 1024  # characters of a member's name with its folders
MAX_DIRECTORY_BYTES = 2**30  # of the list of members at the archive's end
_RATIO_FROM = 2**16
_LOCAL_HEADER = 30  # bytes before the name and content of a member

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]|^[A-Za-z]:")


def name_problem(name: str) -> str | None:
    """Why a member of this name is refused, or None.

    Allowed are relative paths with "/" and without ".", ".." or empty parts, control characters,
    backslashes and drive letters, of limited length and depth; a single "/" may end the name of a
    folder.
    """
    if _FORBIDDEN.search(name):
        return "control character, backslash or drive letter"
    if len(name) > MAX_NAME or name.count("/") > MAX_DEPTH:
        return f"more than {MAX_NAME} characters or {MAX_DEPTH} folders inside each other"
    parts = name.removesuffix("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "absolute path, or an empty, '.' or '..' part"
    return None


def opened_archive(path: Path) -> zipfile.ZipFile:
    """The archive, its list of members read but not judged.

    Raises:
        ValueError: if it is no zip archive or its list of members is too long.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    with path.open("rb") as file:
        length = _directory_bytes(file)
    if length > MAX_DIRECTORY_BYTES:
        raise ValueError(
            f"{path} has a list of members of {length} bytes, allowed are {MAX_DIRECTORY_BYTES}"
        )
    try:
        return zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises many kinds on damaged archives
        raise ValueError(f"{path} is not a readable zip archive: {error}") from error


def checked_members(
    archive: zipfile.ZipFile,
    source: str,
    larger: dict[str, int] | None = None,
    max_ratio: float = MAX_RATIO,
) -> list[zipfile.ZipInfo]:
    """Members of the archive that are files, in the archive's order.

    Args:
        archive: open archive.
        source: what errors call it.
        larger: names with their own limit in bytes instead of MAX_MEMBER_BYTES.
        max_ratio: largest ratio of uncompressed to compressed bytes.

    Raises:
        ValueError: for too many or too large members, suspicious compression ratios, repeated or
            hostile names, links, encryption, compression other than stored and deflated, folders
            with content, or members that overlap or lie outside of the file.
    """
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"{source} has {len(members)} members, allowed are {MAX_MEMBERS}")
    total = sum(member.file_size for member in members)
    if total > MAX_TOTAL_BYTES:
        raise ValueError(f"{source} unpacks to {total} bytes, allowed are {MAX_TOTAL_BYTES}")
    seen: set[str] = set()
    for member in members:
        limit = (larger or {}).get(member.filename, MAX_MEMBER_BYTES)
        problem = _member_problem(member, limit, max_ratio)
        if problem is None and member.filename in seen:
            problem = "its name occurs twice"
        if problem is not None:
            raise ValueError(f"{source}: member {member.orig_filename!r} is refused: {problem}")
        seen.add(member.filename)
    _check_places(members, archive.start_dir, source)
    return [member for member in members if not member.is_dir()]


def member_bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo, source: str) -> bytes:
    """Content of one checked member.

    Raises:
        ValueError: if it is damaged or longer than the archive's directory says.
    """
    try:
        with archive.open(member) as file:
            content = file.read(member.file_size + 1)
    except Exception as error:  # zipfile and zlib raise many kinds on damaged archives
        raise ValueError(f"{source}: member {member.filename!r} is damaged: {error}") from error
    if len(content) != member.file_size:
        raise ValueError(
            f"{source}: member {member.filename!r} has not the {member.file_size} bytes it claims"
        )
    return content


def _check_places(members: list[zipfile.ZipInfo], end: int, source: str) -> None:
    # Members that share their bytes are how an archive unpacks to far more than it should.
    for member in sorted(members, key=lambda member: member.header_offset, reverse=True):
        if member.header_offset + _LOCAL_HEADER + member.compress_size > end:
            raise ValueError(
                f"{source}: member {member.filename!r} is refused: it overlaps another one or "
                "lies outside of the file"
            )
        end = member.header_offset


def _directory_bytes(file: BinaryIO) -> int:
    """Claimed length of the list of members; 0 where zipfile will find none either."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 2**16 - 22 - 76))
    tail = file.read()
    longest, at = 0, tail.find(b"PK\x05\x06")
    # Whichever of several records zipfile takes.
    while 0 <= at <= len(tail) - 22:
        longest = max(longest, int(struct.unpack_from("<I", tail, at + 12)[0]))
        # The larger form of the record and its locator (20 bytes) may come directly before.
        if at >= 76 and tail[at - 76 : at - 72] == b"PK\x06\x06":
            longest = max(longest, int(struct.unpack_from("<Q", tail, at - 36)[0]))
        elif at >= 20 and tail[at - 20 : at - 16] == b"PK\x06\x07":
            longest = size  # it says that the larger form is elsewhere; newer zipfiles look there
        at = tail.find(b"PK\x05\x06", at + 1)
    return min(longest, size)


def _member_problem(member: zipfile.ZipInfo, limit: int, max_ratio: float) -> str | None:
    # zipfile itself cuts names at a zero byte, so the original name is judged.
    problem = name_problem(member.orig_filename)
    if problem is not None:
        return problem
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "not a regular file"
    if member.flag_bits & _ENCRYPTED:
        return "encrypted"
    if member.compress_type not in _METHODS:
        return f"compression method {member.compress_type}, allowed are stored and deflated"
    if member.is_dir() and member.file_size:
        return "a folder with content"
    if member.file_size > limit:
        return f"{member.file_size} bytes, allowed are {limit}"
    ratio = member.file_size / max(member.compress_size, 1)
    if member.file_size > _RATIO_FROM and ratio > max_ratio:
        return f"compressed {ratio:.0f} to 1, allowed is {max_ratio} to 1"
    return None
