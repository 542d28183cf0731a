"""The vendored digits are scikit-learn's, scaled as documented."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from ctm_fast import data


def test_equal_to_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets", reason="the comparison needs scikit-learn")
    values, classes = datasets.load_digits(return_X_y=True)
    digits = data.Digits()
    images = digits.images(range(len(digits))).numpy()
    assert np.array_equal(images, (values / 8 - 1).reshape(-1, 1, 8, 8).astype(np.float32))
    assert np.array_equal(digits.labels(range(len(digits))).numpy(), classes)


def test_facts():
    digits = data.open("digits")
    assert len(digits) == 1797 and digits.shape == (1, 8, 8) and digits.num_classes == 10
    assert digits.sigma_data == pytest.approx(0.752, abs=5e-4)
    counts = torch.bincount(digits.labels(range(1797))).tolist()
    assert counts == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    images = digits.images(range(1797))
    assert float(images.min()) == -1 and float(images.max()) == 1
    assert len(images.unique()) == 17
    assert float(images.mean()) == pytest.approx(-0.389, abs=1e-3)


def test_scikit_learn_is_not_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert len(data.open("digits")) == 1797


def test_digits_are_never_mirrored():
    with pytest.raises(ValueError, match="flip=True makes no sense for 'digits'"):
        data.open("digits", flip=True)
