"""Tar archives: wanted members are read in place, everything else is passed over or refused."""

from __future__ import annotations

import gzip
import io
import os
import random
import tarfile

import pytest

from ctm_fast.data import tarball
from ctm_fast.data.tarball import tar_members

from .cifar_files import tar_gz

WANTED = {"set/a", "set/b"}


def write(path, members):
    path.write_bytes(tar_gz(members))
    return path


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_members_are_read_and_nothing_is_written(tmp_path):
    path = write(tmp_path / "a.tgz", [("./set/a", b"one"), ("set/b", b"2" * 5000), ("c", b"3")])
    assert tar_members(path, WANTED) == {"set/a": b"one", "set/b": b"2" * 5000}
    assert os.listdir(tmp_path) == ["a.tgz"]


def test_hostile_names_are_never_looked_at(tmp_path):
    names = ["/set/a", "../set/a", "set/../set/a", "other/set/a", "set\\a", "C:set/a", "set/a/x"]
    path = write(tmp_path / "a.tgz", [(name, b"evil") for name in names])
    assert tar_members(path, WANTED) == {}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    path = write(tmp_path / "a.tgz", [(link("set/a", "/etc/passwd", kind), b"")])
    with pytest.raises(ValueError, match=r"a.tgz has 'set/a' twice or not as a regular file"):
        tar_members(path, WANTED)


def test_repeated_names_are_refused(tmp_path):
    path = write(tmp_path / "a.tgz", [("set/a", b"1"), ("set/a", b"2")])
    with pytest.raises(ValueError, match="twice"):
        tar_members(path, WANTED)


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(tarball, "MAX_UNPACKED", 10_000_000)
    bombs = {
        "inside.tgz": [("set/a", bytes(20_000_000))],
        "before.tgz": [("big", bytes(20_000_000)), ("set/a", b"1")],
    }
    for name, members in bombs.items():
        with pytest.raises(ValueError, match=rf"{name} unpacks to more than 10000000 bytes"):
            tar_members(write(tmp_path / name, members), WANTED)


def test_a_header_that_claims_gigabytes(tmp_path):
    # An extended header is read into memory by tarfile before anything can be checked.
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**33
    raw = info.tobuf() + b"1" * 1024
    path = tmp_path / "a.tgz"
    path.write_bytes(gzip.compress(raw))
    with pytest.raises(ValueError, match=r"a\.tgz is not a readable"):
        tar_members(path, WANTED)


def test_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(tarball, "MAX_MEMBERS", 2)
    path = write(tmp_path / "a.tgz", [(f"x{i}", b"") for i in range(3)])
    with pytest.raises(ValueError, match="more than 2 members"):
        tar_members(path, WANTED)


def test_every_truncation_is_noticed(tmp_path):
    noise = random.Random(0).randbytes(3000)
    content = tar_gz([("set/a", noise), ("set/b", b"end")])
    path = tmp_path / "a.tgz"
    for length in [0, 1, 9, 10, 11, *range(20, len(content) - 1, 97), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"a.tgz"):
            tar_members(path, WANTED)


def test_damage_gives_the_content_or_a_value_error(tmp_path):
    noise = random.Random(1).randbytes(600)
    content = tar_gz([("set/a", noise), ("set/b", b"end")])
    generator = random.Random(2)
    path = tmp_path / "a.tgz"
    refused = 0
    for _ in range(400):
        damaged = bytearray(content)
        damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            assert tar_members(path, WANTED) == {"set/a": noise, "set/b": b"end"}
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 300


def test_plain_tar_and_other_files_are_refused(tmp_path):
    buffer = io.BytesIO()
    tarfile.open(fileobj=buffer, mode="w").close()
    for name, content in (("plain.tgz", buffer.getvalue()), ("text.tgz", b"no archive")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is not a readable .tar.gz archive"):
            tar_members(tmp_path / name, WANTED)
