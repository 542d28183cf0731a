"""What the table of metrics computes from measured features, against the functions themselves."""

import pytest
import torch

from ctm_fast.evaluation import Moments, Reference, frechet_distance, inception_score, kid
from ctm_fast.evaluation.measuring import Measured
from ctm_fast.evaluation.metrics import precision_recall
from ctm_fast.evaluation.scores import METRICS
from tests.evaluation.small import correlated


def taken(features: torch.Tensor) -> Moments:
    moments = Moments(features.shape[1])
    moments.add(features)
    return moments


MADE, REAL = correlated(30, 4, seed=1), correlated(24, 4, seed=2).float()
FOUND = Measured(taken(MADE), MADE, MADE)
REFERENCE = Reference(taken(REAL).mean, taken(REAL).covariance, REAL)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_says_what_it_is(name) -> None:
    scores = METRICS[name].scores(FOUND, REFERENCE, 0)
    assert all(isinstance(value, float) and words for value, words in scores.values())
    assert len({words for _, words in scores.values()}) == len(scores)


def test_fid() -> None:
    (value, _) = METRICS["fid"].scores(FOUND, REFERENCE, 0)["fid"]
    own, real = taken(MADE), taken(REAL)
    assert value == frechet_distance(own.mean, own.covariance, real.mean, real.covariance)


def test_kid_takes_subsets_that_both_sets_have() -> None:
    scores = METRICS["kid"].scores(FOUND, REFERENCE, 5)
    assert (scores["kid"][0], scores["kid_std"][0]) == kid(MADE, REAL.double(), 100, 24, seed=5)
    assert "100 subsets of 24, subset seed 5" in scores["kid"][1]


def test_is() -> None:
    scores = METRICS["is"].scores(FOUND, None, 3)
    assert (scores["is"][0], scores["is_std"][0]) == inception_score(MADE, 10, seed=3)


def test_the_number_of_splits_is_the_true_one() -> None:
    for images, splits in ((30, 10), (25, 9), (11, 6), (4, 4)):
        scores = METRICS["is"].scores(Measured(taken(MADE), None, MADE[:images]), None, 0)
        assert len(torch.chunk(MADE[:images], 10)) == splits
        assert f"over {splits} splits" in scores["is"][1]


def test_pr() -> None:
    scores = METRICS["pr"].scores(FOUND, REFERENCE, 0)
    expected = precision_recall(MADE, REAL.double(), 3)
    assert (scores["precision"][0], scores["recall"][0]) == expected


def test_precision_and_recall_by_hand() -> None:
    """Real images on a line at 0 to 9; two of four samples among them, two far away."""
    real = torch.arange(10.0)[:, None]
    made = torch.tensor([[0.5], [5.5], [100.0], [200.0]])
    found = Measured(taken(made.double()), made, None)
    scores = METRICS["pr"].scores(found, Reference(features=real), 0)
    assert scores["precision"][0] == 0.5
    # The third neighbour of 0.5 is 200: its ball, and so every real image, is covered.
    assert scores["recall"][0] == 1.0
