"""Image arrays in npz files: layouts, labels, mapping, refusals."""

from __future__ import annotations

import io
import os
import pickle
import random
import threading
import zipfile
import zlib

import numpy as np
import pytest
import torch

from ctm_fast import data
from ctm_fast.data import npz


def images(count=6, height=4, width=5, channels=3, seed=0):
    shape = (count, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(path, compressed=False, **arrays):
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_sample_files_of_ctm_and_openai(tmp_path, compressed, channels):
    values, labels = images(channels=channels), np.array([3, 0, 2, 2, 1, 9])
    path = tmp_path / "samples_6x4x5.npz"
    (np.savez_compressed if compressed else np.savez)(path, values, labels)
    found = data.open(path)
    assert isinstance(found, data.Npz) and found.name == "samples_6x4x5" and len(found) == 6
    assert found.shape == (channels, 4, 5) and found.num_classes == 10
    assert found.labels([0, 5]).tolist() == [3, 9]
    expected = values.transpose(0, 3, 1, 2)
    order = torch.tensor([5, 0, 3, 3])
    assert np.array_equal(found.pixels(order).numpy(), expected[order.numpy()])
    assert (
        found.pixels(order).is_contiguous() and found.pixels(torch.tensor([]).long()).shape[0] == 0
    )
    assert found.sigma_data == pytest.approx((values / 127.5).std())
    assert data.open(path, flip=True).images([6]).shape == (1, channels, 4, 5)


@pytest.mark.parametrize("compressed", [False, True])
def test_other_layouts(tmp_path, compressed):
    values = images().transpose(0, 3, 1, 2)
    cases = {
        "nchw": values,
        "fortran": np.asfortranarray(values),
        "nhwc-fortran": np.asfortranarray(values.transpose(0, 2, 3, 1)),
    }
    for name, array in cases.items():
        found = data.open(write(tmp_path / f"{name}.npz", compressed, images=array))
        assert found.shape == (3, 4, 5) and found.labels([0]) is None
        assert np.array_equal(found.pixels(torch.arange(6)).numpy(), values), name
    grey = data.open(write(tmp_path / "grey.npz", compressed, images=values[:, 0]))
    assert grey.shape == (1, 4, 5)
    assert np.array_equal(grey.pixels(torch.arange(6)).numpy(), values[:, :1])


def test_an_unclear_layout_must_be_named(tmp_path):
    path = write(tmp_path / "a.npz", images=images(height=3))
    with pytest.raises(ValueError, match=r"a.npz:images is \(6, 3, 5, 3\), which is NHWC or NCHW"):
        data.open(path)
    assert data.open(path, layout="NHWC").shape == (3, 3, 5)
    assert data.open(path, layout="NCHW").shape == (3, 5, 3)
    with pytest.raises(ValueError, match=r"unknown layout 'CHW'; allowed are \('NHWC', 'NCHW'\)"):
        data.open(path, layout="CHW")
    with pytest.raises(ValueError, match=r"allowed are 1 and 3 channels \(NCHW\)"):
        data.open(write(tmp_path / "b.npz", images=images()), layout="NCHW")


@pytest.mark.parametrize("compressed", [False, True])
def test_labels(tmp_path, compressed):
    def labels(values):
        path = write(tmp_path / "l.npz", compressed, images=images(), labels=values)
        return data.open(path)

    assert labels(np.arange(6, dtype=np.uint8)[:, None]).labels([4]).tolist() == [4]
    vectors = labels(np.eye(6, 4, dtype=np.int32))
    assert vectors.label_dim == 4 and vectors.labels([1]).tolist() == [[0, 1, 0, 0]]
    for wrong, message in [
        (np.arange(5), r"l.npz:labels is \(5,\); allowed is one label for each of 6 images"),
        (np.array(3), "one label for each"),
        (np.arange(6) - 1, "class -1, allowed are 0 to 1048575"),
        (np.full(6, 2**63, np.uint64), "class 9223372036854775808"),
        (np.arange(6) / 2, r"\(6,\) float64; allowed are whole numbers"),
        (np.full((6, 2), np.nan), "finite vectors"),
        (np.arange(6) > 2, "whole numbers"),
    ]:
        with pytest.raises(ValueError, match=message):
            labels(wrong)


def test_uncompressed_arrays_stay_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "MAX_MEMORY", 100)
    path = write(tmp_path / "a.npz", images=images())
    found = data.open(path)
    assert isinstance(found._array(), np.memmap)
    copy = pickle.loads(pickle.dumps(found))
    assert copy._array._opened is None and len(pickle.dumps(found)) < 4000
    assert torch.equal(copy.images([2]), found.images([2]))
    with pytest.raises(ValueError, match=r"unpacks to \d+ bytes, allowed are 100; .*numpy.savez"):
        data.open(write(tmp_path / "b.npz", True, images=images()))
    assert os.listdir(tmp_path).count("a.npz") == 1


def test_a_thread_reads_too(tmp_path):
    found = data.open(write(tmp_path / "a.npz", images=images()))
    parts = {}
    threads = [
        threading.Thread(target=lambda i=i: parts.update({i: found.images([i])})) for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(parts[i], found.images([i])) for i in range(6))


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("key", ["images", "labels", "arr_0"])
def test_object_arrays_are_refused_and_not_run(tmp_path, key):
    touched = tmp_path / "touched"
    arrays = {"images": images()} if key == "labels" else {}
    arrays[key] = np.array([Bomb(touched)] * 6, object)
    path = write(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=rf"a.npz:{key} is refused: an array of objects"):
        data.open(path)
    assert not touched.exists()
    with np.load(path, allow_pickle=True) as loaded:
        loaded[key][0].close()
    assert touched.exists(), "the attack itself works"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": images()}, r"has no array 'images' or 'arr_0', only \['x'\]"),
        ({"images": images(), "arr_0": images()}, "has 'images' and 'arr_0'; allowed is one"),
        ({"images": images() / 127.5 - 1}, r"\(6, 4, 5, 3\) float64; allowed are \(N, H, W, C\)"),
        ({"images": images()[:0]}, r"is \(0, 4, 5, 3\) uint8"),
        ({"images": images(channels=2)}, "allowed are 1 and 3 channels"),
        ({"images": images()[0, 0]}, r"is \(5, 3\) uint8"),
        ({"arr_0": images(), "arr_1": np.zeros(6, int), "labels": np.zeros(6, int)}, "allowed is"),
    ],
)
def test_other_arrays(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message) as caught:
        data.open(write(tmp_path / "a.npz", **arrays))
    assert "a.npz" in str(caught.value)


def test_hostile_archives(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, images())
    for name in ("../images.npy", "/images.npy", "C:images.npy"):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as out:
            out.writestr("images.npy", buffer.getvalue())
            out.writestr(name, b"1")
        with pytest.raises(ValueError, match="is refused"):
            data.open(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(b"\x93NUMPY no zip")
    with pytest.raises(ValueError, match=r"b.npz is not a readable zip archive"):
        data.open(tmp_path / "b.npz")


def test_an_array_that_claims_more_than_is_stored(tmp_path):
    # The checksum fits what is there; what the mapping would show belongs to another member.
    path = write(tmp_path / "a.npz", images=images(6))
    stored = bytearray(path.read_bytes())
    entry = stored.rindex(b"PK\x01\x02")
    size = int.from_bytes(stored[entry + 24 : entry + 28], "little")
    stored[entry + 20 : entry + 24] = (size - 8).to_bytes(4, "little")
    begin = stored.index(b"\x93NUMPY")
    checksum = zlib.crc32(stored[begin : begin + size - 8])
    stored[entry + 16 : entry + 20] = stored[14:18] = checksum.to_bytes(4, "little")
    path.write_bytes(bytes(stored))
    with pytest.raises(ValueError, match=r"a\.npz:images is damaged"):
        data.open(path)


def test_a_compression_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "MAX_MEMORY", 10**6)
    path = write(tmp_path / "a.npz", True, images=np.zeros((1000, 32, 32, 3), np.uint8))
    assert path.stat().st_size < 10_000
    with pytest.raises(ValueError, match="allowed are 1000000"):
        data.open(path)
    monkeypatch.undo()
    assert len(data.open(path)) == 1000


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("compressed", [False, True])
def test_damage_gives_the_images_or_a_value_error(tmp_path, compressed):
    values = images(3, 2, 2)
    path = write(tmp_path / "a.npz", compressed, images=values, labels=np.arange(3))
    content, generator, refused = path.read_bytes(), random.Random(0), 0
    expected = values.transpose(0, 3, 1, 2)
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(generator.randint(1, 2)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            found = data.open(path)
            assert np.array_equal(found.pixels(torch.arange(3)).numpy(), expected)
            labels = found.labels([0, 1, 2])
            assert labels is None or labels.tolist() == [0, 1, 2]
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 200


@pytest.mark.parametrize("compressed", [False, True])
def test_every_truncation_is_refused(tmp_path, compressed):
    path = write(tmp_path / "a.npz", compressed, images=images(2, 2, 2))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"a.npz"):
            data.open(path)
