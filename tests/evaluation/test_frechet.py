"""The Frechet distance of Gaussians against closed forms, SciPy's root, and torchmetrics."""

import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from ctm_fast.evaluation import Moments, frechet_distance
from ctm_fast.rng import stream
from tests.evaluation.small import correlated


def gaussian(width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = stream(seed, 5)
    root = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(width, generator=generator, dtype=torch.float64), root @ root.T


def rotation(width: int) -> torch.Tensor:
    values = torch.randn(width, width, generator=stream(0, 6), dtype=torch.float64)
    return torch.linalg.qr(values).Q


def test_commuting_covariances() -> None:
    """In a common basis the distance is that of the standard deviations."""
    a, b = torch.tensor([4.0, 1.0, 0.25, 9.0]).double(), torch.tensor([1.0, 1.0, 4.0, 0.0]).double()
    turn, m, n = rotation(4), torch.arange(4.0).double(), torch.ones(4).double()
    S, T = turn @ a.diag() @ turn.T, turn @ b.diag() @ turn.T
    expected = (m - n).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert frechet_distance(m, S, n, T) == pytest.approx(float(expected), abs=1e-7)


def test_two_dimensions_that_do_not_commute() -> None:
    """Tr M^(1/2) = (Tr M + 2 det(M)^(1/2))^(1/2) for two dimensions."""
    (m, S), (n, T) = gaussian(2, 1), gaussian(2, 2)
    product = S @ T
    root = (product.trace() + 2 * torch.linalg.det(product).sqrt()).sqrt()
    expected = (m - n).square().sum() + S.trace() + T.trace() - 2 * root
    assert frechet_distance(m, S, n, T) == pytest.approx(float(expected), rel=1e-12)


def test_a_gaussian_and_itself_and_its_scaled_copy() -> None:
    m, S = gaussian(12, 3)
    assert frechet_distance(m, S, m, S) == pytest.approx(0, abs=1e-11)
    # c X has standard deviations c s.
    expected = float(S.trace()) * (1 - 1.5) ** 2
    assert frechet_distance(m, S, m, 1.5**2 * S) == pytest.approx(expected, rel=1e-12)


def test_equals_the_root_of_scipy() -> None:
    (m, S), (n, T) = gaussian(20, 4), gaussian(20, 5)
    root = scipy.linalg.sqrtm((S @ T).numpy()).real.trace()
    expected = float((m - n).square().sum() + S.trace() + T.trace()) - 2 * root
    assert frechet_distance(m, S, n, T) == pytest.approx(expected, rel=1e-10)


def test_fewer_samples_than_features() -> None:
    """Singular covariances: SciPy's root of the product is unreliable, singular values are not."""
    one, other = Moments(10), Moments(10)
    one.add(correlated(6, 10, seed=1))
    other.add(correlated(5, 10, seed=2))
    args = (one.mean, one.covariance, other.mean, other.covariance)
    value = frechet_distance(*args)
    a = (correlated(6, 10, seed=1) - one.mean) / 5**0.5
    b = (correlated(5, 10, seed=2) - other.mean) / 4**0.5
    root = torch.linalg.svdvals(a @ b.T).sum()
    exact = (one.mean - other.mean).square().sum() + a.square().sum() + b.square().sum() - 2 * root
    assert value == pytest.approx(float(exact), abs=1e-5)


def test_equals_torchmetrics() -> None:
    real, made = correlated(60, 7, seed=1), correlated(50, 7, seed=2) + 0.5
    theirs = FrechetInceptionDistance(feature=_Identity()).set_dtype(torch.float64)
    theirs.update(real, real=True)
    theirs.update(made, real=False)
    own = []
    for features in (real, made):
        moments = Moments(7)
        for part in features.split(16):
            moments.add(part)
        own += [moments.mean, moments.covariance]
    assert frechet_distance(*own) == pytest.approx(float(theirs.compute()), rel=1e-9)


class _Identity(torch.nn.Identity):
    num_features = 7


def test_refusals() -> None:
    m, S = gaussian(3, 1)
    with pytest.raises(ValueError, match=r"covariance_to has shape \(2, 2\); need \(3, 3\)"):
        frechet_distance(m, S, m, S[:2, :2])
    with pytest.raises(ValueError, match="mean_to holds values that are not finite"):
        frechet_distance(m, S, m * torch.nan, S)
