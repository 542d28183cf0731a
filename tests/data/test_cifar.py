"""CIFAR from a folder and from the published archive: pixels, classes, splits, checksums."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
import torch

from ctm_fast import data
from ctm_fast.data import cifar
from ctm_fast.data.cifar import PUBLISHED

from .cifar_files import (
    NAMES,
    batch,
    files,
    meta,
    python_2,
    rows,
    write_folder,
    write_tar,
)


@pytest.fixture(params=["folder", "parent", "tar"])
def source(request, tmp_path):
    if request.param == "tar":
        return write_tar(tmp_path / "cifar-10-python.tar.gz")
    place = write_folder(tmp_path)
    return place if request.param == "folder" else tmp_path


def test_train_and_test(source):
    train = data.open(source)
    assert isinstance(train, data.CIFAR) and train.name == "cifar10" and len(train) == 20
    assert train.shape == (3, 32, 32) and train.num_classes == 10
    assert train.class_names == tuple(NAMES)
    expected = np.concatenate([rows(i, 4) for i in range(1, 6)]).reshape(-1, 3, 32, 32)
    assert np.array_equal(train.pixels(torch.arange(20)).numpy(), expected)
    assert train.labels([0, 4, 19]).tolist() == [1, 2, 8]
    # A row of a batch is red, green and blue planes of 32 rows.
    assert int(train.pixels(torch.tensor([0]))[0, 1, 2, 3]) == rows(1, 1)[0, 1024 + 2 * 32 + 3]
    test = data.open(source, split="test", flip=True)
    assert test.name == "cifar10-test" and len(test) == 6
    assert test.labels([0, 3]).tolist() == [6, 6] and test.class_names == train.class_names


def test_checksums_of_the_published_files(source):
    assert hashlib.md5(meta()).hexdigest() == "5ff9c542aee3614f3951f8cda6e48888"
    info = data.open(source).info()
    assert info["split"] == "train" and info["class_names"] == NAMES
    assert info["files"] == {
        **{f"data_batch_{i}": "not the published file" for i in range(1, 6)},
        "batches.meta": "as published",
    }


def test_cifar_100(tmp_path):
    names = [f"class {i}" for i in range(100)]
    content = {
        "train": batch(0, labels=None, fine_labels=[99, 0, 1, 5], coarse_labels=[0, 1, 2, 3]),
        "test": batch(1, labels=None, fine_labels=[1, 2, 3, 4]),
        "meta": python_2({"fine_label_names": names, "coarse_label_names": ["x"]}),
    }
    folder = write_folder(tmp_path, content, "cifar-100-python")
    archive = write_tar(tmp_path / "c.tgz", content, "cifar-100-python")
    for source in (folder, archive):
        found = data.open(source)
        assert found.name == "cifar100" and found.num_classes == 100
        assert found.labels(range(4)).tolist() == [99, 0, 1, 5]
        assert found.info()["files"]["meta"] == "not the published file"


def test_survives_pickling(source):
    found = data.open(source)
    copy = pickle.loads(pickle.dumps(found))
    assert torch.equal(copy.images([3, 4]), found.images([3, 4]))
    assert copy.class_names == found.class_names


def test_a_whole_file_as_the_checksums_see_it(tmp_path, monkeypatch):
    content = files()
    for name in PUBLISHED[0].md5:
        monkeypatch.setitem(PUBLISHED[0].md5, name, hashlib.md5(content[name]).hexdigest())
    states = data.open(write_folder(tmp_path, content)).info()["files"]
    assert set(states.values()) == {"as published"}


def changed(**changes):
    return {name: value for name, value in (files() | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(data_batch_3=None), "cifar-10-batches-py without data_batch_3"),
        (changed(data_batch_2=batch(2)[:500]), "data_batch_2: truncated"),
        (changed(data_batch_2=batch(2, labels=[1, 2])), "data_batch_2 has 2 labels for 4 images"),
        (changed(data_batch_2=batch(2, labels=[1, 2, 3, 10])), "class 10, allowed are 0 to 9"),
        (changed(data_batch_2=batch(2, labels=None)), "no list 'labels' of whole numbers"),
        (changed(data_batch_2=batch(2, labels=["a"] * 4)), "no list 'labels' of whole numbers"),
        (changed(data_batch_2=batch(2, data=None)), r"no array 'data' of \(N, 3072\) bytes"),
        (changed(data_batch_2=batch(2, 0, data=rows(0, 0))), "no array 'data'"),
        (changed(**{"batches.meta": python_2({"a": 1})}), "has no list 'label_names'"),
        (changed(**{"batches.meta": b"x"}), "batches.meta: not a pickle"),
    ],
)
@pytest.mark.parametrize("form", ["folder", "tar"])
def test_wrong_files(tmp_path, content, message, form):
    write = write_folder if form == "folder" else write_tar
    path = write(tmp_path if form == "folder" else tmp_path / "c.tar.gz", content)
    with pytest.raises(ValueError, match=message) as caught:
        data.CIFAR(path)
    assert str(path) in str(caught.value)


def test_wrong_sources(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="unknown split 'val'; allowed are 'train' and 'test'"):
        data.CIFAR(tmp_path, split="val")
    with pytest.raises(ValueError, match="has no cifar-10-batches-py or cifar-100-python"):
        data.CIFAR(tmp_path)
    with pytest.raises(ValueError, match="has no cifar-10"):
        data.open(write_tar(tmp_path / "other.tar.gz", {"a": b"1"}, "x"))
    with pytest.raises(ValueError, match=r"none\.tar\.gz is not a readable"):
        data.CIFAR(tmp_path / "none.tar.gz")
    monkeypatch.setattr(cifar, "MAX_BATCH_BYTES", 1000)
    with pytest.raises(ValueError, match="bytes, allowed are 1000"):
        data.CIFAR(write_folder(tmp_path))
