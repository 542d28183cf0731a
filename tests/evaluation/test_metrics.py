"""Two-sample measures against brute force and against cases with a known answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ctm_fast.data import Digits
from ctm_fast.evaluation import metrics
from ctm_fast.evaluation.metrics import (
    class_agreement,
    class_score,
    copy_fraction,
    copy_threshold,
    nearest_squared,
    one_nn_accuracy,
    precision_recall,
)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute_force_1nn(a, b):
    points, side = torch.cat([a, b]).numpy(), [0] * len(a) + [1] * len(b)
    right = 0.0
    for i, point in enumerate(points):
        d = ((points - point) ** 2).sum(1)
        d[i] = np.inf
        nearest = {side[j] for j in np.flatnonzero(d == d.min())}
        right += 0.5 if len(nearest) == 2 else float(nearest == {side[i]})
    return right / len(points)


def brute_force_covered(points, centres, k):
    count = 0
    for point in points.numpy():
        for i, centre in enumerate(centres.numpy()):
            others = np.delete(centres.numpy(), i, 0)
            radius = np.sort(((others - centre) ** 2).sum(1))[k - 1]
            if ((point - centre) ** 2).sum() <= radius:
                count += 1
                break
    return count / len(points)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_against_brute_force(monkeypatch, chunk, shift):
    monkeypatch.setattr(metrics, "CHUNK", chunk)
    # Small whole numbers: many ties, all distances exact.
    a, b = (3 * normal(0, 30, 3)).round(), (3 * normal(1, 30, 3) + 3 * shift).round()
    assert one_nn_accuracy(a, b) == pytest.approx(brute_force_1nn(a, b))
    for k in (1, 3):
        precision, recall = precision_recall(a, b, k)
        assert precision == pytest.approx(brute_force_covered(a, b, k))
        assert recall == pytest.approx(brute_force_covered(b, a, k))


def test_nearest_leaves_out_the_point_itself_but_not_its_twin():
    points = torch.tensor([[0.0], [3.0], [3.0], [10.0]]).double()
    assert nearest_squared(points, points).tolist() == [0, 0, 0, 0]
    assert nearest_squared(points, points, leave_one_out=True).tolist() == [9, 0, 0, 49]


def test_identical_sets():
    a = normal(0, 50, 4)
    assert one_nn_accuracy(a, a) == 0  # every point's nearest is its copy on the other side
    assert precision_recall(a, a) == (1, 1)
    assert copy_fraction(a, a, copy_threshold(a)) == 1


def test_far_apart_sets():
    a, b = normal(0, 50, 4), normal(1, 50, 4) + 100
    assert one_nn_accuracy(a, b) == 1
    assert precision_recall(a, b) == (0, 0)
    assert copy_fraction(b, a, copy_threshold(a)) == 0


def test_one_distribution():
    a, b = normal(0, 800, 4), normal(1, 800, 4)
    # 0.5 with a standard deviation of 0.0125
    assert one_nn_accuracy(a, b) == pytest.approx(0.5, abs=0.05)


def test_collapse_is_seen_by_recall_and_noise_by_precision():
    real = normal(0, 400, 4)
    collapsed = real[:10].repeat(40, 1) + 1e-3 * normal(1, 400, 4)
    precision, recall = precision_recall(collapsed, real)
    assert precision > 0.95 and recall < 0.1
    precision, recall = precision_recall(real + 3 * normal(2, 400, 4), real)
    assert precision < 0.5 and recall > 0.5


def test_a_gaussian_fitted_to_digits_is_much_worse_than_real_digits():
    digits = Digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    a, b = digits.images(order[:898]), digits.images(order[898:1796])
    flat = a.flatten(1).double()
    values, vectors = torch.linalg.eigh(flat.T.cov())
    fitted = normal(0, 898, 64) * values.clamp(min=0).sqrt() @ vectors.T + flat.mean(0)
    assert one_nn_accuracy(a, b) == pytest.approx(0.5, abs=0.05)
    assert min(precision_recall(a, b)) > 0.86
    assert one_nn_accuracy(fitted, b.flatten(1)) == pytest.approx(0.85, abs=0.04)
    precision, recall = precision_recall(fitted, b.flatten(1))
    assert precision == pytest.approx(0.08, abs=0.05) and recall == pytest.approx(0.78, abs=0.07)


def test_copies():
    real = torch.arange(0, 100, dtype=torch.float64).square().unsqueeze(1)
    threshold = copy_threshold(real, 50.0)
    gaps = sorted(min(2 * n - 1 if n else 1, 2 * n + 1) ** 2 for n in range(99))
    assert gaps[40] < threshold < gaps[60]
    samples = torch.tensor([[0.1], [9801.4], [9702.5], [-500.0]]).double()
    assert copy_fraction(samples, real, threshold) == 0.5


def test_integers_beyond_float32_are_exact():
    # Neighbours at squared distances 2^24 + 1 and 2^24, which float32 cannot tell apart.
    a = torch.tensor([[0, 0], [0, 0]], dtype=torch.int64)
    b = torch.tensor([[4096, 1], [4096, 0]], dtype=torch.int64)
    assert nearest_squared(a.double(), b.double()).tolist() == [2.0**24] * 2


def test_class_score():
    assert class_score(torch.eye(5)) == pytest.approx(5)
    assert class_score(torch.full((7, 5), 0.2)) == pytest.approx(1)
    assert class_score(torch.eye(5)[[0, 0, 0]]) == pytest.approx(1)
    p = torch.tensor([[0.9, 0.1], [0.3, 0.7]])
    q = p.mean(0)
    kl = sum(float(v * math.log(v / q[j])) for row in p for j, v in enumerate(row)) / 2
    assert class_score(p) == pytest.approx(math.exp(kl), rel=1e-6)


def test_class_agreement():
    p = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]])
    assert class_agreement(p, torch.tensor([0, 1, 1])) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: one_nn_accuracy(normal(0, 5, 2), normal(0, 6, 2)), "one size, got 5 and 6"),
        (lambda: one_nn_accuracy(normal(0, 1, 2), normal(0, 1, 2)), "at least 2 elements"),
        (lambda: precision_recall(normal(0, 5, 2), normal(0, 5, 3)), "different shapes"),
        (lambda: precision_recall(normal(0, 3, 2), normal(0, 5, 2)), "at least 4 elements"),
        (lambda: precision_recall(normal(0, 5, 2), normal(0, 5, 2), 0), "k must be at least 1"),
        (lambda: copy_threshold(normal(0, 5, 2), 0), "percentile must be in"),
    ],
)
def test_wrong_use(call, message):
    with pytest.raises(ValueError, match=message):
        call()
