"""Mean and covariance of batches against NumPy, also with a mean that costs raw sums digits."""

import numpy as np
import pytest
import torch

from ctm_fast.evaluation import Moments
from tests.evaluation.small import correlated


def batched(features: torch.Tensor, *sizes: int) -> Moments:
    moments = Moments(features.shape[1])
    for part in features.split(list(sizes)):
        moments.add(part)
    return moments


@pytest.mark.parametrize("sizes", [(40,), (1, 0, 7, 32), (13, 13, 13, 1)])
def test_batches_give_the_covariance_of_all(sizes) -> None:
    features = correlated(40, 5)
    moments = batched(features, *sizes)
    assert moments.count == 40
    np.testing.assert_allclose(moments.mean, features.mean(0), rtol=1e-12)
    expected = np.cov(features.numpy(), rowvar=False)
    np.testing.assert_allclose(moments.covariance, expected, rtol=1e-12, atol=1e-12)


def test_a_large_mean_costs_no_digits() -> None:
    features = correlated(400, 3)
    near = batched(features, 100, 100, 200).covariance
    far = batched(features + 1e7, 100, 100, 200).covariance
    # Sums of raw products keep three digits here: 1e14 of 1e16.
    torch.testing.assert_close(far, near, rtol=1e-7, atol=1e-7)


def test_float32_features_are_summed_in_float64() -> None:
    features = correlated(64, 4).float()
    assert batched(features, 32, 32).mean.dtype == torch.float64
    expected = np.cov(features.double().numpy(), rowvar=False)
    np.testing.assert_allclose(batched(features, 32, 32).covariance, expected, rtol=1e-10)


def test_merging_without_other_processes_changes_nothing() -> None:
    moments = batched(correlated(12, 3), 12)
    before = moments.covariance
    moments.merge()
    assert torch.equal(moments.covariance, before) and moments.count == 12


def test_one_image_has_no_covariance() -> None:
    moments = batched(correlated(1, 3), 1)
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        _ = moments.covariance
