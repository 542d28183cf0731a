"""EDM archives are read in place, by any process, and refused when they are not what they claim."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctm_fast import data

from .image_files import chw, encoded, pixels

COUNT = 12


def names(count=COUNT):
    return [f"{index // 5:05d}/img{index:08d}.png" for index in range(count)]


def write(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as out:
        for name, content in members.items():
            out.writestr(name, content)
    return path


@pytest.fixture
def archive(tmp_path):
    members = {name: encoded(pixels(seed)) for seed, name in enumerate(names())}
    labels = [[name, seed % 4] for seed, name in enumerate(names())]
    members["dataset.json"] = json.dumps({"labels": labels[::-1]})
    members["__MACOSX/._img.png"] = b"no image"
    members["readme.txt"] = b"no image"
    # The order of the set is that of the names, not that of the archive.
    return write(tmp_path / "tiny-6x6.zip", dict(reversed(members.items())))


def all_pixels(count=COUNT):
    return np.stack([chw(pixels(seed)) for seed in range(count)])


def test_images_labels_and_facts(archive):
    dataset = data.open(archive)
    assert len(dataset) == COUNT and dataset.shape == (3, 6, 6) and dataset.name == "tiny-6x6"
    assert dataset.num_classes == 4 and dataset.labels([0, 1, 5]).tolist() == [0, 1, 1]
    assert np.array_equal(dataset.pixels(torch.arange(COUNT)).numpy(), all_pixels())
    assert dataset.sigma_data == pytest.approx((all_pixels() / 127.5).std())
    assert os.listdir(archive.parent) == [archive.name]


def test_resize_and_flip(archive):
    dataset = data.open(archive, size=3, flip=True)
    assert len(dataset) == 2 * COUNT and dataset.shape == (3, 3, 3)
    assert torch.equal(dataset.images([1])[0].flip(-1), dataset.images([1 + COUNT])[0])


def test_the_adm_rule(archive):
    found = data.open(archive, size=2, resize="adm")
    assert found.shape == (3, 2, 2)
    halves = data.open(archive, size=3, resize="adm")
    assert torch.equal(halves.images([0]), data.open(archive, size=3).images([0]))
    assert not torch.equal(found.images([0]), data.open(archive, size=2).images([0]))


def test_without_labels_and_with_vectors(tmp_path):
    images = {name: encoded(pixels(seed, channels=1)) for seed, name in enumerate(names(2))}
    plain = data.open(write(tmp_path / "plain.zip", images))
    assert plain.labels([0]) is None and plain.shape == (1, 6, 6)
    labels = json.dumps({"labels": [[name, [0.5, index]] for index, name in enumerate(names(2))]})
    vectors = data.open(write(tmp_path / "vectors.zip", {**images, "dataset.json": labels}))
    assert vectors.labels([1]).tolist() == [[0.5, 1.0]] and vectors.label_dim == 2


def test_pickled_copies_open_their_own_handle(archive):
    dataset = data.open(archive)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy._archive._opened is None
    assert torch.equal(copy.images([3, 4]), dataset.images([3, 4]))


def _digest(dataset, results):
    # Many reads, so that a file position shared between processes would be noticed.
    for _ in range(30):
        assert np.array_equal(dataset.pixels(torch.arange(COUNT)).numpy(), all_pixels())
    results.put(os.getpid())


def test_forked_processes_read_at_the_same_time(archive):
    dataset = data.open(archive)
    dataset.images([0])
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [context.Process(target=_digest, args=(dataset, results)) for _ in range(3)]
    for child in children:
        child.start()
    _digest(dataset, results)
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert len({results.get(timeout=10) for _ in range(4)}) == 4


def test_threads_read_at_the_same_time(archive):
    dataset = data.open(archive)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda i: dataset.pixels(torch.tensor([i % COUNT])), range(200)))
    assert all(np.array_equal(part[0], all_pixels()[i % COUNT]) for i, part in enumerate(parts))


def test_refusals(tmp_path):
    image = encoded(pixels(0))
    with pytest.raises(ValueError, match="is not a readable zip archive"):
        (tmp_path / "text.zip").write_text("no zip")
        data.open(tmp_path / "text.zip")
    with pytest.raises(ValueError, match="has no png"):
        data.open(write(tmp_path / "empty.zip", {"a.txt": b"1"}))
    with pytest.raises(ValueError, match=r"member '../a.png' is refused"):
        data.open(write(tmp_path / "up.zip", {"../a.png": image}))
    with pytest.raises(ValueError, match=r"no label for 1 of 2"):
        labels = json.dumps({"labels": [["a.png", 1]]})
        data.open(
            write(tmp_path / "l.zip", {"a.png": image, "b.png": image, "dataset.json": labels})
        )
    mixed = data.open(
        write(tmp_path / "mixed.zip", {"a.png": image, "b.png": encoded(pixels(0, 7, 7))})
    )
    with pytest.raises(ValueError, match=r"mixed.zip:b.png is 7x7, the data set 6x6"):
        mixed.images([0, 1])


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 255)), max_size=6))
def test_damaged_archives_give_images_or_a_value_error(archive, tmp_path, changes):
    content = bytearray(archive.read_bytes())
    for position, value in changes:
        content[position % len(content)] = value
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(content)
    try:
        dataset = data.open(damaged)
        assert dataset.images(range(len(dataset))).abs().max() <= 1
    except ValueError:
        pass
