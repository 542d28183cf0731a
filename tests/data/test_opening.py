"""One door: names, paths, objects, and one clear sentence for everything else."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest

from ctm_fast import data

from .cifar_files import FOLDER, write_folder, write_tar
from .image_files import encoded, pixels
from .parquet_files import table
from .parquet_files import write as write_parquet


def test_names():
    assert data.DATASETS.names() == ["digits", "photo-patches"]
    assert isinstance(data.open("digits"), data.Digits)


def test_an_open_data_set_is_returned_as_it_is():
    dataset = data.ArrayDataset(np.zeros((2, 1, 2, 2), np.uint8))
    assert data.open(dataset) is dataset
    assert len(data.open(dataset, flip=True)) == 4
    with pytest.raises(ValueError, match="open already"):
        data.open(dataset, size=3)


def test_a_path_wins_over_a_name_only_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "a.png").write_bytes(encoded(pixels(0)))
    assert isinstance(data.open("digits"), data.Digits)
    assert isinstance(data.open("./digits"), data.ImageFolder)
    assert isinstance(data.open(tmp_path / "digits"), data.ImageFolder)


@pytest.mark.parametrize("source", ["digit", "nowhere/at/all", "missing.zip", ""])
def test_unknown_sources(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = "allowed are 'digits', 'photo-patches', and the path" if source else "has no png"
    with pytest.raises(ValueError, match=expected):
        data.open(source)


def test_every_kind_of_source_is_recognised(tmp_path):
    image = encoded(pixels(0))
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(image)
    with zipfile.ZipFile(tmp_path / "A.ZIP", "w") as out:
        out.writestr("a.png", image)
    np.savez(tmp_path / "a.npz", np.zeros((2, 4, 4, 3), np.uint8))
    write_parquet(tmp_path / "a.parquet", table(range(2)))
    write_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", table(range(2)))
    write_tar(tmp_path / "cifar-10-python.tar.gz")
    write_folder(tmp_path / "cifar")
    kinds = {
        "flat": data.ImageFolder,
        "A.ZIP": data.EDMZip,
        "a.npz": data.Npz,
        "a.parquet": data.Parquet,
        "hub": data.Parquet,
        "cifar-10-python.tar.gz": data.CIFAR,
        "cifar": data.CIFAR,
        f"cifar/{FOLDER}": data.CIFAR,
    }
    for name, kind in kinds.items():
        found = data.open(tmp_path / name)
        assert type(found) is kind, name
        assert json.dumps(found.info()) and found.format
        assert data.open(str(tmp_path / name), flip=True).format == found.format
        assert abs(found.images([1 % len(found)])).max() <= 1


def test_the_error_lists_what_is_allowed(tmp_path):
    with pytest.raises(ValueError) as caught:
        data.open(tmp_path / "a.tar")
    for kind in ("folder", "CIFAR", ".zip", ".npz", ".parquet", ".tar.gz", "'digits'"):
        assert kind in str(caught.value)


def test_other_files_are_unknown(tmp_path):
    (tmp_path / "a.tar").write_text("")
    with pytest.raises(ValueError, match="unknown data"):
        data.open(tmp_path / "a.tar")


def test_options_of_another_kind(tmp_path):
    whole, text = "allowed is a whole number", "allowed is text"
    for source, options, message in [
        ("photo-patches", {"size": "8"}, f"size='8'; {whole}"),
        ("photo-patches", {"stride": True}, f"stride=True; {whole}"),
        ("photo-patches", {"size": None}, f"size=None; {whole}"),
        ("photo-patches", {"photos": [1]}, r"photos=\[1\]; allowed are names"),
        ("photo-patches", {"flip": "no"}, "flip='no'; allowed are True and False"),
        (tmp_path, {"split": 3}, f"split=3; {text}"),
        (tmp_path, {"resize": {}}, rf"resize=\{{\}}; {text}"),
    ]:
        with pytest.raises(ValueError, match=message):
            data.open(source, **options)
    assert data.open("photo-patches", size=np.int64(64)).shape == (3, 64, 64)


def test_unknown_options():
    with pytest.raises(ValueError, match=r"unknown options \['size'\] for digits.*\['flip'\]"):
        data.open("digits", size=32)
