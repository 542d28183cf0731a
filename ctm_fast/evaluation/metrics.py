"""Two-sample measures on pixels or any features; exact, and exact in the float sense for integers.

None of them is a Frechet distance: on small images a Gaussian fitted to the data wins that one
against real images.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 1024  # rows of the distance matrix held at once


def one_nn_accuracy(a: Tensor, b: Tensor) -> float:
    """Leave-one-out accuracy of telling two sets apart by the nearest neighbour.

    0.5 is a perfect match, 1 complete separation, and clearly below 0.5 means that one set copies
    the other. A tie between the nearest of either set counts one half.

    Args:
        a: (N, ...) features.
        b: (N, ...) features of the other set, as many.

    Raises:
        ValueError: for sets of different sizes, shapes, or fewer than two elements.

    Source: Lopez-Paz and Oquab 2017, arXiv:1610.06545.
    """
    a, b = _features(a, b, least=2)
    if len(a) != len(b):
        raise ValueError(f"1-NN accuracy needs sets of one size, got {len(a)} and {len(b)}")
    right = 0.0
    for one, other in ((a, b), (b, a)):
        own = nearest_squared(one, one, leave_one_out=True)
        foreign = nearest_squared(one, other)
        right += float((own < foreign).sum() + 0.5 * (own == foreign).sum())
    return right / (2 * len(a))


def precision_recall(generated: Tensor, real: Tensor, k: int = 3) -> tuple[float, float]:
    """k-nearest-neighbour precision and recall, both in [0, 1].

    Precision is the fraction of generated images inside a ball around some real image, whose radius
    is the distance of that image's k-th real neighbour; recall is the same with the sets exchanged.

    Args:
        generated: (N, ...) features.
        real: (M, ...) features.
        k: which neighbour gives the radius, >= 1.

    Raises:
        ValueError: for k < 1 or a set of at most k elements.

    Source: Kynkaanniemi et al. 2019, arXiv:1904.06991, Eq. 1 and 2.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    generated, real = _features(generated, real, least=k + 1)
    return _covered(generated, real, k), _covered(real, generated, k)


def copy_fraction(generated: Tensor, real: Tensor, threshold: float) -> float:
    """Fraction of generated images whose squared distance to some real image is below `threshold`.

    Args:
        generated: (N, ...) features.
        real: (M, ...) features.
        threshold: squared distance, for instance `copy_threshold(real)`.
    """
    generated, real = _features(generated, real, least=1)
    return float((nearest_squared(generated, real) < threshold).double().mean())


def copy_threshold(real: Tensor, percentile: float = 1.0) -> float:
    """Squared distance that `percentile` % of the real images have to their nearest real neighbour.

    Args:
        real: (M, ...) features.
        percentile: in (0, 100).

    Raises:
        ValueError: for a percentile outside (0, 100) or fewer than two images.
    """
    if not 0 < percentile < 100:
        raise ValueError(f"percentile must be in (0, 100), got {percentile}")
    real, _ = _features(real, real, least=2)
    return float(nearest_squared(real, real, leave_one_out=True).quantile(percentile / 100))


def class_score(probabilities: Tensor) -> float:
    """exp of the mean KL divergence of p(class | image) from its average, from 1 to num_classes.

    Args:
        probabilities: (N, num_classes), rows sum to 1.

    Source: Salimans et al. 2016, arXiv:1606.03498, with another classifier and without splits.
    """
    p = probabilities.double()
    terms = torch.special.xlogy(p, p) - torch.special.xlogy(p, p.mean(0))
    return float(terms.sum(1).mean().exp())


def class_agreement(probabilities: Tensor, labels: Tensor) -> float:
    """Fraction of images whose most probable class is the requested one, in [0, 1].

    Args:
        probabilities: (N, num_classes).
        labels: (N,) requested classes.
    """
    return float((probabilities.argmax(1) == labels.to(probabilities.device)).double().mean())


def nearest_squared(a: Tensor, b: Tensor, leave_one_out: bool = False) -> Tensor:
    """Squared distance of each row of `a` to its nearest row of `b`, (len(a),) float64.

    Args:
        a: (N, D) float64.
        b: (M, D) float64.
        leave_one_out: `b` is `a`, and a row is not its own neighbour.
    """
    parts = [d.min(1).values for _, d in _distances(a, b, leave_one_out)]
    return torch.cat(parts)


def _covered(points: Tensor, centres: Tensor, k: int) -> float:
    radii = torch.cat([d.kthvalue(k, 1).values for _, d in _distances(centres, centres, True)])
    inside = [(d <= radii).any(1) for _, d in _distances(points, centres)]
    return float(torch.cat(inside).double().mean())


def _distances(a: Tensor, b: Tensor, leave_one_out: bool = False) -> Iterator[tuple[int, Tensor]]:
    # Integers (pixels) have exact products and sums in float64, so equal distances are equal.
    squares = b.square().sum(1)
    for start in range(0, len(a), CHUNK):
        rows = a[start : start + CHUNK]
        d = rows.square().sum(1, keepdim=True) + squares - 2 * rows @ b.T
        d.clamp_(min=0)
        if leave_one_out:
            number = torch.arange(len(rows), device=d.device)
            d[number, start + number] = torch.inf
        yield start, d


def _features(a: Tensor, b: Tensor, least: int) -> tuple[Tensor, Tensor]:
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"sets of different shapes: {tuple(a.shape)} and {tuple(b.shape)}")
    if min(len(a), len(b)) < least:
        raise ValueError(f"need at least {least} elements in each set, got {len(a)} and {len(b)}")
    return a.flatten(1).double(), b.flatten(1).double()
