"""The Gaussian baseline."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from ctm_fast.likelihood import GaussianFit
from ctm_fast.likelihood import gaussian as file
from tests.likelihood.worlds import drawn

IMAGES = drawn(60, 1, 2, 3) @ drawn(3, 3, seed=1) + 0.2


def test_full_covariance():
    fit = GaussianFit.of(lambda i: IMAGES[i].float(), 60, width=0.1, batch_size=7)
    rows = IMAGES.float().double().flatten(1)
    covariance = torch.cov(rows.T, correction=0) + torch.eye(6) * 0.01 / 12
    expected = MultivariateNormal(rows.mean(0), covariance).log_prob(rows)
    assert fit.covariance == "full"
    assert torch.allclose(fit.log_prob(IMAGES.float()), expected, atol=1e-9)


@pytest.mark.parametrize(("name", "value"), [("FULL_DIMS", 5), ("IMAGES_PER_DIM", 11)])
def test_diagonal_where_a_matrix_is_too_large_or_not_known(monkeypatch, name, value):
    monkeypatch.setattr(file, name, value)
    fit = GaussianFit.of(lambda i: IMAGES[i], 60, width=0.1)
    rows = IMAGES.flatten(1)
    std = (rows.var(0, correction=0) + 0.01 / 12).sqrt()
    assert fit.covariance == "diagonal"
    expected = Normal(rows.mean(0), std).log_prob(rows).sum(1)
    assert torch.allclose(fit.log_prob(IMAGES), expected, atol=1e-9)


def test_noise_of_the_intervals_is_part_of_the_fit():
    """Values that never change cost log(width), as a uniform distribution of that width nearly."""
    fit = GaussianFit.of(lambda i: torch.zeros(len(i), 1, 1, 2), 20, width=0.5)
    uniform = 0.5 * (torch.rand(4000, 1, 1, 2, generator=torch.Generator().manual_seed(0)) - 0.5)
    # Of N(0, w^2/12) under itself: (ln(2 pi/12) + 1)/2 + ln(w).
    expected = 0.5 * (math.log(2 * math.pi / 12) + 1) + math.log(0.5)
    assert float(-fit.log_prob(uniform).mean() / 2) == pytest.approx(expected, abs=0.02)


def test_what_is_refused():
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        GaussianFit.of(lambda i: IMAGES[i], 1)
    with pytest.raises(ValueError, match="the same in all images"):
        GaussianFit.of(lambda i: torch.zeros(len(i), 1, 1, 1), 20)
    with pytest.raises(ValueError, match="singular"):
        GaussianFit.of(lambda i: IMAGES[i][..., :1].expand(-1, -1, -1, 2), 60)
    with pytest.raises(ValueError, match=r"need \(batch, \*\(1, 2, 3\)\)"):
        GaussianFit.of(lambda i: IMAGES[i], 60).log_prob(IMAGES[:, :, :1])
