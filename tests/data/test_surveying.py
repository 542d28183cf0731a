"""What a survey says: labels, value range, moments and repeats, against numpy."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ctm_fast import data
from ctm_fast.data import surveying
from ctm_fast.data.surveying import survey


def array_set(count=40, labels=None, **options):
    pixels = np.random.default_rng(0).integers(3, 200, (count, 3, 4, 5), dtype=np.uint8)
    return pixels, data.ArrayDataset(pixels, labels, **options)


def test_moments_are_numpys():
    pixels, dataset = array_set()
    scaled = pixels / 127.5 - 1
    found = survey(dataset)
    assert found["pixels"]["mean"] == pytest.approx(scaled.mean(), abs=1e-12)
    assert found["pixels"]["sigma_data"] == pytest.approx(scaled.std(), rel=1e-12)
    assert found["pixels"]["sigma_data"] == pytest.approx(dataset.sigma_data, rel=1e-12)
    assert found["pixels"]["channel_means"] == pytest.approx(list(scaled.mean((0, 2, 3))))
    assert (found["pixels"]["lowest"], found["pixels"]["highest"]) == (pixels.min(), pixels.max())
    assert found["images"] == 40 and found["shape"] == [3, 4, 5] and found["repeated"] == 0
    assert found["format"] == "images in memory" and found["label"] == {"kind": "none"}
    assert json.loads(json.dumps(found)) == found


def test_repeated_images_are_counted(monkeypatch):
    pixels, _ = array_set()
    pixels[7] = pixels[30] = pixels[2]
    dataset = data.ArrayDataset(pixels)
    assert survey(dataset)["repeated"] == 2
    monkeypatch.setattr(surveying, "HASHED", 39)
    assert survey(dataset)["repeated"] is None


@pytest.mark.parametrize("hashed", [10, 1000])
def test_few_images_are_measured_where_that_is_asked(monkeypatch, hashed):
    monkeypatch.setattr(surveying, "HASHED", hashed)
    pixels, dataset = array_set()
    found = survey(dataset, 4)["pixels"]
    assert found["measured_images"] == 4
    assert found["mean"] == pytest.approx((pixels[[0, 10, 20, 30]] / 127.5 - 1).mean())
    with pytest.raises(ValueError, match="images must be at least 1, got 0"):
        survey(dataset, 0)


def test_labels():
    _, dataset = array_set(labels=np.arange(40) % 3, num_classes=4)
    dataset.class_names = ("a", "b", "c", "d")
    label = survey(dataset)["label"]
    assert label["counts"] == [14, 13, 13, 0] and label["empty"] == 1
    assert (label["smallest"], label["largest"], label["classes"]) == (0, 14, 4)
    assert label["names"] == ["a", "b", "c", "d"]
    _, dataset = array_set(labels=np.zeros((40, 7), np.float32))
    assert survey(dataset)["label"] == {"kind": "vectors", "dim": 7}


def test_other_scales_and_mirror_images():
    digits = survey(data.open("digits"))
    assert digits["pixels"]["stored"] == "0 to 16"
    assert digits["pixels"]["mean"] == pytest.approx(-0.389, abs=1e-3)
    assert digits["pixels"]["sigma_data"] == pytest.approx(0.752, abs=1e-3)
    _, dataset = array_set(labels=np.arange(40) % 2)
    flipped = survey(data.open(dataset, flip=True))
    assert flipped["images"] == 80 and flipped["flip"] is True
    assert flipped["label"]["counts"] == [40, 40]
