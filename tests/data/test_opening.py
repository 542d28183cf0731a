"""One door: names, paths, objects, and one clear sentence for everything else."""

from __future__ import annotations

import numpy as np
import pytest

from ctm_fast import data

from .image_files import encoded, pixels


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
    expected = "allowed are 'digits', 'photo-patches', the path" if source else "has no png"
    with pytest.raises(ValueError, match=expected):
        data.open(source)


def test_other_files_are_unknown(tmp_path):
    (tmp_path / "a.tar").write_text("")
    with pytest.raises(ValueError, match="unknown data"):
        data.open(tmp_path / "a.tar")


def test_unknown_options():
    with pytest.raises(ValueError, match=r"unknown options \['size'\] for digits.*\['flip'\]"):
        data.open("digits", size=32)
