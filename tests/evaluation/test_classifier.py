"""The judge of class metrics learns, is reproducible and leaves the random state alone."""

from __future__ import annotations

import torch

from ctm_fast.data import Digits
from ctm_fast.evaluation import SmallClassifier, trained_classifier
from ctm_fast.evaluation.metrics import class_agreement


def test_recognises_digits_it_was_not_trained_on():
    digits = Digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    one, other = order[:898], order[898:]
    classifier = trained_classifier(digits.images(one), digits.labels(one), 10)
    judged = classifier.probabilities(digits.images(other))
    assert class_agreement(judged, digits.labels(other)) > 0.95
    assert class_agreement(classifier.probabilities(digits.images(one)), digits.labels(one)) > 0.995


def test_depends_on_the_seed_alone():
    digits = Digits()
    images, labels = digits.images(range(200)), digits.labels(range(200))

    def logits(seed):
        return trained_classifier(images, labels, 10, seed, steps=3)(images)

    torch.manual_seed(0)
    first = logits(0)
    state = torch.get_rng_state()
    assert torch.equal(logits(0), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(logits(1), first)


def test_shapes_and_probabilities():
    classifier = SmallClassifier((3, 16, 12), 7)
    images = torch.zeros(600, 3, 16, 12)
    probabilities = classifier.probabilities(images)
    assert probabilities.shape == (600, 7) and not probabilities.requires_grad
    assert torch.allclose(probabilities.sum(1), torch.ones(600))


def test_trains_inside_no_grad():
    with torch.no_grad():
        images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        before = SmallClassifier((1, 8, 8), 2)(images)
        after = trained_classifier(images, torch.arange(8) % 2, 2, steps=2)(images)
    assert not torch.equal(before, after)
