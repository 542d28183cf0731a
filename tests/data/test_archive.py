"""Hostile archives are refused with the member's name and the reason."""

from __future__ import annotations

import io
import random
import stat
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctm_fast.data import archive
from ctm_fast.data.archive import checked_members, member_bytes, name_problem


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
