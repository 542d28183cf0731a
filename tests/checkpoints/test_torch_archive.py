"""Kinds of files, and archives that torch.save would not write."""

import gzip
import io
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ctm_fast.checkpoints.files import DamagedCheckpoint
from ctm_fast.checkpoints.torch_archive import check_archive, file_kind

STATE = {"weight": torch.ones(4, 4)}


def archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def test_kinds(tmp_path):
    torch.save(STATE, tmp_path / "a.pt")
    torch.save(STATE, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    save_file(STATE, tmp_path / "c.safetensors")
    (tmp_path / "c.safetensors").rename(tmp_path / "c.bin")
    assert [file_kind(tmp_path / n) for n in ("a.pt", "b.pt", "c.bin")] == [
        "zip",
        "legacy",
        "safetensors",
    ]
    check_archive(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"weights" * 9), "compressed with gzip"),
        (b"version https://git-lfs.github.com/spec/v1", "pointer of Git LFS"),
        (b"<!DOCTYPE html><html>...", "web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
        (b"\x80\x03}q\x00(X\x03\x00\x00\x00ema" + bytes(20), "plain pickle.*format='edm'"),
        (b"\x84\xa6params\x81" + bytes(20), "looks like msgpack"),
        (b"some text, longer than that", "no file of torch.save"),
    ],
)
def test_files_of_other_kinds(tmp_path, content, message):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        file_kind(path)


def test_missing_empty_and_folders(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        file_kind(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        file_kind(tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes(b"PK")
    with pytest.raises(DamagedCheckpoint, match="has only 2 bytes"):
        file_kind(tmp_path / "x.pt")


def test_truncated_archives(tmp_path):
    path = tmp_path / "x.pt"
    torch.save(STATE, path)
    whole = path.read_bytes()
    for size in (40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedCheckpoint, match="truncated or damaged"):
            check_archive(path)


@pytest.mark.parametrize("name", ["/etc/passwd", "x/../../up", "C:/x", "x\\y"])
def test_names_outside_the_archive(tmp_path, name):
    path = archive(tmp_path / "x.pt", [("x/data.pkl", b"."), (name, b"1")])
    with pytest.raises(ValueError, match="names a path outside itself"):
        check_archive(path)


def test_names_that_occur_twice(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = archive(tmp_path / "x.pt", [("x/data.pkl", b"."), ("x/data.pkl", b".")])
    with pytest.raises(ValueError, match="occur twice"):
        check_archive(path)


def test_archives_that_grow(tmp_path):
    members = [("x/data.pkl", b"."), ("x/data/0", bytes(1 << 20))]
    path = archive(tmp_path / "x.pt", members, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="would unpack to 1048577"):
        check_archive(path)
    check_archive(archive(tmp_path / "y.pt", members))


def test_archives_of_too_many_members_or_too_much_description(tmp_path, monkeypatch):
    path = archive(tmp_path / "x.pt", [("x/data.pkl", b"." * 100), ("x/version", b"3")])
    monkeypatch.setattr("ctm_fast.checkpoints.torch_archive._MOST_PICKLE", 99)
    with pytest.raises(ValueError, match="describes its tensors in 100 bytes"):
        check_archive(path)
    monkeypatch.setattr("ctm_fast.checkpoints.torch_archive._MOST_MEMBERS", 1)
    with pytest.raises(ValueError, match="2 members, far too many"):
        check_archive(path)


def test_encrypted_archives(tmp_path):
    path = archive(tmp_path / "x.pt", [("x/data.pkl", b".")])
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is encrypted"):
        check_archive(path)


def test_archives_of_other_things(tmp_path):
    arrays = io.BytesIO()
    np.savez(arrays, a=np.ones(3))
    (tmp_path / "a.npz").write_bytes(arrays.getvalue())
    images = archive(tmp_path / "b.zip", [("00/a.png", b"1"), ("dataset.json", b"{}")])
    script = archive(tmp_path / "c.pt", [("c/data.pkl", b"."), ("c/constants.pkl", b".")])
    other = archive(tmp_path / "d.zip", [("readme", b"1")])
    for path, what in (
        (tmp_path / "a.npz", "NumPy arrays"),
        (images, "an archive of images"),
        (script, "TorchScript"),
        (other, "not one of torch.save"),
    ):
        with pytest.raises(ValueError, match=what):
            check_archive(path)
