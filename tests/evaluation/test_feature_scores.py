"""KID and Inception score against their formulas written out; seeds, and no global state."""

import sys

import pytest
import torch

from ctm_fast.evaluation import inception_score, kid
from tests.evaluation.small import correlated


def by_hand(x: torch.Tensor, y: torch.Tensor) -> float:
    """Unbiased MMD^2 of the kernel (x.y / D + 1)^3 for sets of one size."""
    n, width = x.shape
    total = 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                total += float((x[i] @ x[j] / width + 1) ** 3 + (y[i] @ y[j] / width + 1) ** 3)
    across = ((x @ y.T / width + 1) ** 3).sum()
    return total / (n * (n - 1)) - 2 * float(across) / n**2


def test_kid_of_whole_sets() -> None:
    """A subset as large as the set is the set, whatever the seed."""
    x, y = correlated(12, 5, seed=1), correlated(12, 5, seed=2)
    mean, deviation = kid(x, y, subsets=3, subset_size=12)
    assert mean == pytest.approx(by_hand(x, y), rel=1e-12)
    assert deviation == pytest.approx(0, abs=1e-12)


def test_kid_is_unbiased_around_zero_for_one_distribution() -> None:
    real = correlated(400, 3)
    mean, deviation = kid(real[:200], real[200:], subsets=30, subset_size=100)
    other, _ = kid(real[:200], real[200:] + 1, subsets=30, subset_size=100)
    assert abs(mean) < 3 * deviation < other


def test_the_seed_says_all() -> None:
    x, y = correlated(40, 4, seed=1).float(), correlated(30, 4, seed=2).float()
    before = torch.random.get_rng_state()
    first = kid(x, y, 4, 20, seed=1)
    torch.randn(5)
    assert first == kid(x, y, 4, 20, seed=1) != kid(x, y, 4, 20, seed=2)
    torch.random.set_rng_state(before)
    inception_score(x, 2)
    assert torch.equal(torch.random.get_rng_state(), before), "the global state was touched"


def test_inception_score_of_known_distributions() -> None:
    certain = torch.eye(4).repeat(50, 1) * 1000
    mean, _ = inception_score(certain, splits=2)
    assert mean == pytest.approx(4, rel=0.05)  # classes of a random half are nearly even
    mean, deviation = inception_score(torch.ones(40, 4), splits=4)
    assert mean == pytest.approx(1, abs=1e-12) and deviation == pytest.approx(0, abs=1e-12)


def test_inception_score_of_two_images_per_split() -> None:
    """By hand: split into all of the set, twice the same rows."""
    row = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.0, 1.0]], dtype=torch.float64)
    logits = row.repeat_interleave(torch.tensor([1, 1]), 0)
    p = logits.softmax(1)
    scores = []
    for part in p.split(1):
        scores.append(float((part * (part / part.mean(0)).log()).sum(1).mean().exp()))
    assert inception_score(logits, splits=2)[0] == pytest.approx(sum(scores) / 2, rel=1e-12)
    many = row.repeat(100, 1)
    expected = (p * (p / p.mean(0)).log()).sum(1).mean().exp()
    assert inception_score(many, splits=2)[0] == pytest.approx(float(expected), rel=0.02)


def test_refusals() -> None:
    x = correlated(10, 4)
    with pytest.raises(ValueError, match=r"100 subsets of 1000 images; allowed .* 2 to 10"):
        kid(x, x)
    with pytest.raises(ValueError, match=r"\(10, 4\) and \(10, 3\)"):
        kid(x, x[:, :3], 1, 5)
    with pytest.raises(ValueError, match="11 splits"):
        inception_score(x, 11)


def test_absent_package(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.image.kid", None)
    with pytest.raises(ImportError, match=r"pip install 'ctm_fast\[eval\]'"):
        kid(correlated(10, 4), correlated(10, 4), 1, 5)
