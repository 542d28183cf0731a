"""Hostile archives are refused with the member's name and the reason."""

from __future__ import annotations

import io
import random
import stat
import struct
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctm_fast.data import archive
from ctm_fast.data.archive import (
    checked_members,
    member_bytes,
    name_problem,
    opened_archive,
)


def build(*members, compression=zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of (name or ZipInfo, bytes) members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as out:
        for member, content in members:
            out.writestr(member, content)
    return buffer.getvalue()


def check(data: bytes):
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        return checked_members(opened, "set.zip")


def test_ordinary_members_pass_and_folders_are_left_out():
    data = build(("00000/", b""), ("00000/img0.png", b"1"), ("dataset.json", b"{}"))
    assert [member.filename for member in check(data)] == ["00000/img0.png", "dataset.json"]


HOSTILE = [
    "/etc/passwd",
    "../up.png",
    "a/../../b.png",
    "a//b.png",
    "./a.png",
    "C:/a.png",
    "c:a.png",
]
HOSTILE += ["a\\b.png", "..\\a.png", "//host/a.png", "a\nb.png", "a\x00.png", "..", "", "a/./b.png"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(name):
    assert name_problem(name) is not None
    if name:  # zipfile cannot write a nameless member
        data = build(("good.png", b"1"), ("x" * len(name), b"2"))
        with pytest.raises(ValueError, match="is refused"):
            check(data.replace(b"x" * len(name), name.encode()))


parts = st.text(st.characters(blacklist_characters="/\\", min_codepoint=32), min_size=1, max_size=8)


@settings(deadline=None)
@given(st.lists(parts, min_size=1, max_size=4))
def test_names_are_refused_exactly_when_they_leave_the_plain_form(pieces):
    name = "/".join(pieces)
    plain = all(piece not in (".", "..") for piece in pieces)
    plain = plain and "\x7f" not in name
    plain = plain and not (
        len(name) > 1 and name[1] == ":" and name[0].isascii() and name[0].isalpha()
    )
    assert (name_problem(name) is None) == plain


@settings(deadline=None)
@given(st.lists(parts, min_size=1, max_size=3), st.sampled_from(["..", ".", ""]), st.integers(0, 3))
def test_a_bad_part_anywhere_is_refused(pieces, bad, position):
    # An empty last part is the slash that ends a folder's name.
    position = min(position, len(pieces) - (bad == ""))
    pieces.insert(position, bad)
    assert name_problem("/".join(pieces)) is not None


def test_links_are_refused():
    link = zipfile.ZipInfo("a.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(ValueError, match=r"'a.png' is refused: not a regular file"):
        check(build((link, b"/etc/passwd")))


def test_repeated_names_are_refused():
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = build(("a.png", b"1"), ("a.png", b"2"))
    with pytest.raises(ValueError, match="occurs twice"):
        check(data)


def test_encrypted_members_are_refused():
    data = bytearray(build(("a.png", b"1")))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ValueError, match="encrypted"):
        check(bytes(data))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_is_refused(method):
    with pytest.raises(ValueError, match="allowed are stored and deflated"):
        check(build(("a.png", b"1" * 100), compression=method))


def test_compression_ratio():
    with pytest.raises(ValueError, match="to 1, allowed is 200 to 1"):
        check(build(("a.png", bytes(2**20))))
    assert check(build(("a.png", bytes(2**16))))


def test_size_and_count_limits(monkeypatch):
    noise = random.Random(0).randbytes(1000)
    data = build(("a.png", noise), ("b.png", noise))
    for limit, value, message in [
        ("MAX_MEMBERS", 1, "has 2 members, allowed are 1"),
        ("MAX_TOTAL_BYTES", 1999, "unpacks to 2000 bytes, allowed are 1999"),
        ("MAX_MEMBER_BYTES", 999, "'a.png' is refused: 1000 bytes, allowed are 999"),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(archive, limit, value)
            with pytest.raises(ValueError, match=message):
                check(data)


def test_a_member_longer_than_it_claims_is_refused():
    data = bytearray(build(("a.png", b"1234567890"), compression=zipfile.ZIP_STORED))
    entry = data.index(b"PK\x01\x02")
    data[entry + 24] = 4
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as opened:
        with pytest.raises(ValueError, match=r"set.zip: member 'a.png'"):
            member_bytes(opened, checked_members(opened, "set.zip")[0], "set.zip")


def test_depth_and_length_of_names():
    assert name_problem("a/" * 16 + "b.png") is None
    assert name_problem("a/" * 17 + "b.png") == (
        "more than 1024 characters or 16 folders inside each other"
    )
    assert name_problem("a" * 1024) is None and name_problem("a" * 1025) is not None
    with pytest.raises(ValueError, match="folders inside each other"):
        check(build(("a/" * 17 + "b.png", b"1")))


def test_a_folder_with_content_is_refused():
    with pytest.raises(ValueError, match="'a/' is refused: a folder with content"):
        check(build(("a/", b"1")))


def entries(data: bytes) -> list[int]:
    """Where the entries of the list of members begin."""
    found, at = [], data.find(b"PK\x01\x02")
    while at >= 0:
        found.append(at)
        at = data.find(b"PK\x01\x02", at + 1)
    return found


def test_members_that_share_their_bytes_are_refused():
    # How a file of megabytes unpacks to terabytes: every entry points at the same content.
    data = bytearray(build(("a.png", b"1" * 50), ("b.png", b"1" * 50), ("c.png", b"1" * 50)))
    for at in entries(bytes(data)):
        data[at + 42 : at + 46] = bytes(4)
    with pytest.raises(ValueError, match="is refused: it overlaps another one or lies outside"):
        check(bytes(data))


def test_a_member_outside_of_the_file_is_refused():
    data = bytearray(build(("a.png", b"1" * 50), compression=zipfile.ZIP_STORED))
    at = entries(bytes(data))[0]
    data[at + 20 : at + 28] = struct.pack("<II", 10_000_000, 10_000_000)
    with pytest.raises(ValueError, match="lies outside of the file"):
        check(bytes(data))


def zip64(size: int, packed: int, offset: int = 0) -> bytes:
    """An archive whose member has its sizes and its place in the zip64 field."""
    data = build(("a.png", b"some bytes"), compression=zipfile.ZIP_STORED)
    at, end = entries(data)[0], data.rindex(b"PK\x05\x06")
    entry = bytearray(data[at:end])
    extra = struct.pack("<HHQQQ", 1, 24, size, packed, offset)
    entry[20:28] = b"\xff" * 8
    entry[30:32] = struct.pack("<H", len(extra))
    entry[42:46] = b"\xff" * 4
    entry += extra
    last = bytearray(data[end:])
    last[12:16] = struct.pack("<I", len(entry))
    return data[:at] + bytes(entry) + bytes(last)


@pytest.mark.parametrize(
    ("size", "packed", "offset", "message"),
    [
        (2**40, 10, 0, "bytes, allowed are"),
        (2**63, 10, 0, "unpacks to 9223372036854775808 bytes"),
        (10, 2**40, 0, "lies outside of the file"),
        (10, 10, 2**62, "lies outside of the file"),
        (2**26, 10, 0, "to 1, allowed is 200 to 1"),
    ],
)
def test_lies_of_zip64(size, packed, offset, message):
    good = zip64(10, 10)
    with zipfile.ZipFile(io.BytesIO(good)) as opened:
        assert member_bytes(opened, checked_members(opened, "s")[0], "s") == b"some bytes"
    with pytest.raises(ValueError, match=message):
        check(zip64(size, packed, offset))


def test_the_list_of_members_is_limited_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "set.zip"
    path.write_bytes(build(*((f"{i}.png", b"1") for i in range(50))))
    assert len(opened_archive(path).infolist()) == 50
    monkeypatch.setattr(archive, "MAX_DIRECTORY_BYTES", 1000)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(
        ValueError, match=r"set.zip has a list of members of \d+ bytes, allowed are 1"
    ):
        opened_archive(path)
    # The larger form of the record is what zipfile believes, so it is judged too.
    data = path.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    length = struct.unpack_from("<I", data, end + 12)[0]
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 50, 50, length, 0)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    last = bytearray(data[end:])
    last[12:16] = struct.pack("<I", 10)
    path.write_bytes(data[:end] + record + locator + bytes(last))
    with pytest.raises(ValueError, match="has a list of members of"):
        opened_archive(path)
    # Newer zipfiles believe one that is longer as well, so only its locator is before the end.
    path.write_bytes(data[:end] + record + b"more" * 5 + locator + bytes(last))
    with pytest.raises(ValueError, match="has a list of members of"):
        opened_archive(path)


def test_a_second_record_at_the_end_hides_nothing(tmp_path, monkeypatch):
    # A signature inside of the last record, where a search from the end would stop.
    path = tmp_path / "set.zip"
    data = bytearray(build(*((f"{i}.png", b"1") for i in range(50))))
    end = data.rindex(b"PK\x05\x06")
    data[end + 4 : end + 8] = b"PK\x05\x06"
    path.write_bytes(data)
    monkeypatch.setattr(archive, "MAX_DIRECTORY_BYTES", 1000)
    with pytest.raises(ValueError, match="has a list of members of"):
        opened_archive(path)


def test_what_is_no_archive(tmp_path):
    with pytest.raises(ValueError, match="is not a file"):
        opened_archive(tmp_path)
    for content in (b"", b"PK\x05\x06", b"PK\x05\x06" + b"\xff" * 18, b"text" * 100):
        (tmp_path / "a.zip").write_bytes(content)
        with pytest.raises(ValueError, match=r"a.zip is not a readable zip archive"):
            opened_archive(tmp_path / "a.zip")


SOUND = build(("a.png", b"some bytes, some bytes, some bytes"), ("b/c.png", b"other"))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), max_size=4))
def test_damaged_archives_give_the_content_or_a_value_error(changes):
    data = bytearray(SOUND)
    for position, value in changes:
        data[position] = value
    try:
        opened = zipfile.ZipFile(io.BytesIO(bytes(data)))
    except Exception:
        return  # judged by the data set, which wraps every error of opening
    contents = {b"some bytes, some bytes, some bytes", b"other"}
    with opened:
        try:
            for member in checked_members(opened, "set.zip"):
                assert member_bytes(opened, member, "set.zip") in contents
        except ValueError as error:
            assert str(error).startswith("set.zip")
