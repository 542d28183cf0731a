"""Image sets of the Hub: one file or shards, splits, labels, class names."""

from __future__ import annotations

import os
import pickle
import random
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
import torch

from ctm_fast import data
from ctm_fast.data import parquet

from .cifar_files import NAMES
from .image_files import chw, encoded, pixels
from .parquet_files import table, write


def all_pixels(seeds):
    return np.stack([chw(pixels(seed)) for seed in seeds])


def test_one_file(tmp_path):
    found = data.open(write(tmp_path / "cifar.parquet", table(range(11))))
    assert isinstance(found, data.Parquet) and found.name == "cifar" and len(found) == 11
    assert found.shape == (3, 6, 6) and found.num_classes == 10
    assert found.class_names == tuple(NAMES) and found.labels([0, 10, 9]).tolist() == [0, 0, 9]
    order = [10, 0, 3, 4, 0]
    assert np.array_equal(found.pixels(torch.tensor(order)).numpy(), all_pixels(order))
    assert found.pixels(torch.tensor([]).long()).shape == (0, 3, 6, 6)
    assert found.sigma_data == pytest.approx((all_pixels(range(11)) / 127.5).std())


def test_the_hubs_folder(tmp_path):
    place = tmp_path / "plain_text"
    write(place / "train-00000-of-00002.parquet", table(range(5)))
    write(place / "train-00001-of-00002.parquet", table(range(5, 12)))
    write(place / "test-00000-of-00001.parquet", table(range(20, 23)))
    for source in (place, tmp_path):
        train = data.open(source)
        assert len(train) == 12 and train.info()["split"] == "train"
        assert np.array_equal(train.pixels(torch.arange(12)).numpy(), all_pixels(range(12)))
        assert train.labels(range(12)).tolist() == [seed % 10 for seed in range(12)]
        test = data.open(source, split="test")
        assert len(test) == 3 and test.num_classes == 10 and test.name.endswith("-test")
        assert np.array_equal(test.pixels(torch.arange(3)).numpy(), all_pixels(range(20, 23)))
        with pytest.raises(ValueError, match=r"has the splits \['test', 'train'\]; pass one"):
            data.open(source, split="val")
    write(place / "train-00002-of-00003.parquet", table(range(5)))
    with pytest.raises(ValueError, match="has 3 files of 'train', not all of 3"):
        data.open(place)
    os.remove(place / "train-00002-of-00003.parquet")
    os.remove(place / "train-00000-of-00002.parquet")
    with pytest.raises(ValueError, match="has 1 files of 'train', not all of 2"):
        data.open(place)
    os.rename(place / "train-00001-of-00002.parquet", place / "other.parquet")
    with pytest.raises(ValueError, match=r"other.parquet is not named like"):
        data.open(place)


def test_a_folder_of_any_files_is_one_set(tmp_path):
    write(tmp_path / "b.parquet", table(range(3, 6)))
    write(tmp_path / "a.parquet", table(range(3)))
    (tmp_path / ".c.parquet").write_text("hidden")
    found = data.open(tmp_path)
    assert np.array_equal(found.pixels(torch.arange(6)).numpy(), all_pixels(range(6)))
    with pytest.raises(ValueError, match="no files named like 'test-00000"):
        data.open(tmp_path, split="test")
    with pytest.raises(ValueError, match="for the single file"):
        data.open(tmp_path / "a.parquet", split="train")


def test_columns(tmp_path):
    plain = pa.array([encoded(pixels(seed)) for seed in range(3)], pa.large_binary())
    found = data.open(write(tmp_path / "a.parquet", table(range(3), "image", img=plain)))
    assert np.array_equal(found.pixels(torch.arange(3)).numpy(), all_pixels(range(3)))
    path = write(tmp_path / "b.parquet", table(range(3), "odd", note=False, label=None))
    assert data.open(path).labels([0]) is None
    path = write(tmp_path / "c.parquet", table(range(3), "odd", more=plain, cls=[4, 5, 6]))
    with pytest.raises(ValueError, match=r"no image column img or.*columns of bytes are \['more'"):
        data.open(path)
    found = data.open(path, image="more", label="cls")
    assert found.labels([2]).tolist() == [6] and found.num_classes == 7
    assert found.class_names == ()
    for options, message in [
        ({"image": "label"}, "has no image column label"),
        ({"image": "odd", "label": "odd"}, r"no label column 'odd'.*\['label', 'cls'\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            data.open(path, **options)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, None, 1], "column 'label' has 1 nulls"),
        ([0, -2, 1], "column 'label' goes from -2 to 1"),
        ([0, 2**40, 1], "goes from 0 to 1099511627776"),
        ([0, -1, 1], "labels from -1 to 1"),
        ([0, 10, 1], "allowed are 0 to 9"),
        (["a", "b", "c"], "no label column 'label' of whole numbers"),
        ([0.5, 1, 2], "no label column 'label' of whole numbers"),
    ],
)
def test_wrong_labels(tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        data.open(write(tmp_path / "a.parquet", table(range(3), label=pa.array(labels))))


def test_secret_labels_are_no_labels(tmp_path):
    found = data.open(write(tmp_path / "a.parquet", table(range(3), label=pa.array([-1] * 3))))
    assert found.labels([0]) is None and found.num_classes == 0 and found.class_names == ()


def test_sizes_and_the_adm_rule(tmp_path):
    images = [{"bytes": encoded(pixels(seed, 9, 12 + seed)), "path": None} for seed in range(2)]
    path = write(tmp_path / "a.parquet", table(range(2), img=images))
    with pytest.raises(ValueError, match=r"a.parquet: image 1 is 13x9, the data set 12x9"):
        data.open(path).images([0, 1])
    found = data.open(path, size=4, resize="adm")
    assert found.shape == (3, 4, 4) and found.images([0, 1]).shape == (2, 3, 4, 4)
    assert not torch.equal(found.images([0, 1]), data.open(path, size=4).images([0, 1]))


def test_copies_and_threads(tmp_path):
    found = data.open(write(tmp_path / "a.parquet", table(range(12))))
    found.images([0])
    copy = pickle.loads(pickle.dumps(found))
    assert copy._shards._opened is None
    assert torch.equal(copy.images([7]), found.images([7]))
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda i: copy.pixels(torch.tensor([i % 12])), range(100)))
    expected = all_pixels(range(12))
    assert all(np.array_equal(part[0], expected[i % 12]) for i, part in enumerate(parts))
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(found.images([7]), copy.images([7])) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_wrong_files(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"a.parquet is damaged or not as it should be"):
        (tmp_path / "a.parquet").write_text("no parquet")
        data.open(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="has 0 images"):
        data.open(write(tmp_path / "b.parquet", table(range(0))))
    broken = [{"bytes": b"no image", "path": None}] * 2
    with pytest.raises(ValueError, match=r"c.parquet: image 0 is not a readable png"):
        data.open(write(tmp_path / "c.parquet", table(range(2), img=broken)))
    monkeypatch.setattr(parquet, "MAX_ROWS", 2)
    with pytest.raises(ValueError, match="has 3 images, allowed are 1 to 2"):
        data.open(write(tmp_path / "d.parquet", table(range(3))))
    with pytest.raises(ValueError, match="has 0 parquet files"):
        data.Parquet(tmp_path / "nowhere")


def test_without_pyarrow(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", table(range(2)))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r'pip install "ctm_fast\[parquet\]"'):
        data.open(path)


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_damage_gives_images_or_a_value_error(tmp_path, compression):
    path = tmp_path / "a.parquet"
    write(path, table(range(6)), compression=compression, write_page_checksum=True)
    content, generator, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(generator.randint(1, 3)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        if generator.random() < 0.1:
            del damaged[generator.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        try:
            found = data.open(path)
            assert found.images(range(len(found))).abs().max() <= 1
        except ValueError as error:
            assert "a.parquet" in str(error) or "labels from" in str(error)
            refused += 1
    assert refused > 30
