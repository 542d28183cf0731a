"""The table of metrics: what each needs, and how it is computed from what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .feature_scores import SPLITS, SUBSET_SIZE, SUBSETS, inception_score, kid
from .frechet import frechet_distance
from .measuring import Measured
from .metrics import precision_recall
from .reference import Reference

NEIGHBOURS = 3

Scores = dict[str, tuple[float, str]]  # name of a number -> (value, what it is, with constants)


@dataclass(frozen=True)
class Metric:
    """One entry of METRICS."""

    scores: Callable[[Measured, Reference | None, int], Scores]  # measured, reference, seed
    compared: bool = True  # whether it needs real images
    features: bool = False  # whether it needs the features, not their moments alone
    logits: bool = False
    torchmetrics: bool = False  # whether it is computed by that package


def _fid(found: Measured, reference: Reference | None, seed: int) -> Scores:
    assert reference is not None
    assert reference.mean is not None and reference.covariance is not None
    own = found.moments
    value = frechet_distance(own.mean, own.covariance, reference.mean, reference.covariance)
    return {"fid": (value, "Frechet distance, unbiased covariances, float64")}


def _kid(found: Measured, reference: Reference | None, seed: int) -> Scores:
    features, real = _features(found, reference)
    size = min(SUBSET_SIZE, len(features), len(real))
    mean, deviation = kid(features, real, SUBSETS, size, seed)
    words = f"MMD^2 of the cubic kernel over {SUBSETS} subsets of {size}, subset seed {seed}"
    return {"kid": (mean, f"mean {words}"), "kid_std": (deviation, f"std of {words}")}


def _is(found: Measured, reference: Reference | None, seed: int) -> Scores:
    assert found.logits is not None
    splits = min(SPLITS, len(found.logits))
    mean, deviation = inception_score(found.logits, splits, seed)
    # torch.chunk makes parts of one size, which can be fewer than asked for.
    splits = math.ceil(len(found.logits) / math.ceil(len(found.logits) / splits))
    words = f"exp of the mean KL divergence over {splits} splits, shuffle seed {seed}"
    return {"is": (mean, f"mean {words}"), "is_std": (deviation, f"std of {words}")}


def _pr(found: Measured, reference: Reference | None, seed: int) -> Scores:
    features, real = _features(found, reference)
    precision, recall = precision_recall(features, real, NEIGHBOURS)
    words = f"balls reach to the {NEIGHBOURS}rd neighbour in their own set"
    return {
        "precision": (precision, f"share of samples in the balls of real images; {words}"),
        "recall": (recall, f"share of real images in the balls of samples; {words}"),
    }


METRICS: dict[str, Metric] = {
    "fid": Metric(_fid),
    "kid": Metric(_kid, features=True, torchmetrics=True),
    "is": Metric(_is, compared=False, logits=True, torchmetrics=True),
    "pr": Metric(_pr, features=True),
}


def _features(found: Measured, reference: Reference | None) -> tuple[Tensor, Tensor]:
    """Features of the samples and of the reference, in one dtype on one device."""
    assert reference is not None
    assert reference.features is not None and found.features is not None
    return found.features, reference.features.to(found.features)
