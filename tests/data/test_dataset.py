"""Scaling, labels, index checks, mirror images and sigma_data of data sets in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctm_fast.data import ArrayDataset, Flipped
from ctm_fast.data.dataset import measured_sigma_data, spread


def random_set(count: int = 20, **options) -> ArrayDataset:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 4, 5), dtype=np.uint8)
    return ArrayDataset(pixels, **options)


def test_black_and_white_become_minus_one_and_one_exactly():
    for white in (16, 255):
        pixels = np.array([0, white], dtype=np.uint8).reshape(2, 1, 1, 1)
        images = ArrayDataset(pixels, white=white).images([0, 1])
        assert images.dtype == torch.float32
        assert images.flatten().tolist() == [-1.0, 1.0]


def test_images_and_labels_by_index():
    data = random_set(labels=np.arange(20) % 4)
    assert len(data) == 20 and data.shape == (3, 4, 5) and data.num_classes == data.label_dim == 4
    images = data.images(torch.tensor([5, 0, 5]))
    assert images.shape == (3, 3, 4, 5)
    assert torch.equal(images[0], images[2]) and not torch.equal(images[0], images[1])
    labels = data.labels([5, 0, 5])
    assert labels.dtype == torch.int64 and labels.tolist() == [1, 0, 1]
    images.zero_()
    assert data.images([5]).abs().sum() > 0


def test_no_labels_and_vector_labels():
    assert random_set().labels([0]) is None and random_set().num_classes == 0
    vectors = random_set(labels=torch.rand(20, 7))
    assert vectors.num_classes == 0 and vectors.label_dim == 7
    assert vectors.labels([1, 2]).shape == (2, 7)


def test_sigma_data_is_the_standard_deviation():
    data = random_set()
    exact = data.images(range(20)).double().std(correction=0)
    assert data.sigma_data == pytest.approx(float(exact), rel=1e-6)
    assert data.info()["sigma_data"] == pytest.approx(data.sigma_data, abs=1e-6)


def test_sigma_data_of_a_subset_is_deterministic_and_spread():
    data = random_set(1000)
    assert measured_sigma_data(data, 10) == measured_sigma_data(data, 10)
    assert spread(1000, 4).tolist() == [0, 250, 500, 750]
    assert spread(3, 10).tolist() == [0, 1, 2]


def test_flipped_is_the_set_and_its_mirror_images():
    data = random_set(labels=np.arange(20))
    both = Flipped(data)
    assert len(both) == 40 and both.num_classes == 20 and both.sigma_data == data.sigma_data
    images = both.images([3, 23])
    assert torch.equal(images[0].flip(-1), images[1])
    assert both.labels([3, 23]).tolist() == [3, 3]
    assert both.info()["flip"] is True and both.info()["images"] == 40
    with pytest.raises(ValueError, match="0 to 39"):
        both.labels([40])


@pytest.mark.parametrize("index", [-1, 20])
def test_index_outside(index):
    data = random_set(labels=np.zeros(20, int))
    for read in (data.images, data.labels):
        with pytest.raises(ValueError, match=f"image {index} of 'array': allowed are 0 to 19"):
            read([0, index])


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((2, 1, 2, 2)), {}, "uint8"),
        (np.zeros((2, 2, 2), np.uint8), {}, "uint8"),
        (np.zeros((0, 1, 2, 2), np.uint8), {}, "not empty"),
        (np.full((2, 1, 2, 2), 17, np.uint8), {"white": 16}, "17 is above white=16"),
        (np.zeros((2, 1, 2, 2), np.uint8), {"labels": np.zeros(3, int)}, "3 labels for 2 images"),
        (np.zeros((2, 1, 2, 2), np.uint8), {"labels": np.array([0, -1])}, "labels from -1 to 0"),
        (
            np.zeros((2, 1, 2, 2), np.uint8),
            {"labels": np.array([0, 9]), "num_classes": 5},
            "allowed are 0 to 4",
        ),
        (np.zeros((2, 1, 2, 2), np.uint8), {"num_classes": 5}, "needs one integer label"),
    ],
)
def test_wrong_arrays(images, options, message):
    with pytest.raises(ValueError, match=message):
        ArrayDataset(images, **options)
