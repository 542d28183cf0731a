"""Which zip archives are read: limits on members, sizes and names. Nothing is ever extracted."""

from __future__ import annotations

import re
import stat
import zipfile

MAX_MEMBERS = 5_000_000
MAX_MEMBER_BYTES = 2**26  # uncompressed, one image
MAX_TOTAL_BYTES = 2**42  # uncompressed, all members
MAX_RATIO = 200  # uncompressed to compressed, for members above _RATIO_FROM
_RATIO_FROM = 2**16

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]|^[A-Za-z]:")


def name_problem(name: str) -> str | None:
    """Why a member of this name is refused, or None.

    Allowed are relative paths with "/" and without ".", ".." or empty parts, control characters,
    backslashes and drive letters; a single "/" may end the name of a folder.
    """
    if _FORBIDDEN.search(name):
        return "control character, backslash or drive letter"
    parts = name.removesuffix("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "absolute path, or an empty, '.' or '..' part"
    return None


def checked_members(
    archive: zipfile.ZipFile, source: str, larger: dict[str, int] | None = None
) -> list[zipfile.ZipInfo]:
    """Members of the archive that are files, in the archive's order.

    Args:
        archive: open archive.
        source: what errors call it.
        larger: names with their own limit in bytes instead of MAX_MEMBER_BYTES.

    Raises:
        ValueError: for too many or too large members, suspicious compression ratios, repeated or
            hostile names, links, encryption, or compression other than stored and deflated.
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
        problem = _member_problem(member, limit)
        if problem is None and member.filename in seen:
            problem = "its name occurs twice"
        if problem is not None:
            raise ValueError(f"{source}: member {member.orig_filename!r} is refused: {problem}")
        seen.add(member.filename)
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


def _member_problem(member: zipfile.ZipInfo, limit: int) -> str | None:
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
    if member.file_size > limit:
        return f"{member.file_size} bytes, allowed are {limit}"
    ratio = member.file_size / max(member.compress_size, 1)
    if member.file_size > _RATIO_FROM and ratio > MAX_RATIO:
        return f"compressed {ratio:.0f} to 1, allowed is {MAX_RATIO} to 1"
    return None
