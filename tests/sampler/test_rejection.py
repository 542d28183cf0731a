"""Classifier rejection: exact counts, accountings, and the closed form of what is kept."""

import math

import pytest
import torch
from torch import nn

from ctm_fast.rng import stream_seed
from ctm_fast.sampler import RejectionSampler, Sampler
from ctm_fast.sampler import rejection as file

from .classes import Classes
from .worlds import World, small_model

TWO = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)


def made(rate: float = 0.5, means: torch.Tensor = TWO, **options) -> RejectionSampler:
    data = Classes(means, std=0.5, kind="trajectory")
    own = {name: options.pop(name) for name in ("batch_size",) if name in options}
    sampler = Sampler(data, clip=False, **own)
    return RejectionSampler(sampler, data.classifier, rate=rate, **options)


@pytest.mark.parametrize("rate", [0.2, 0.8])
def test_what_is_kept_of_a_gaussian_is_its_tail(rate) -> None:
    # log p(y | x) of two Gaussians of one variance grows with x towards the class: the best
    # 1 - rate of N(m, s^2) are a truncated normal, of mean m + s phi(z) / (1 - rate).
    images = made(rate)(2000, seed=1)
    z = torch.distributions.Normal(0, 1).icdf(torch.tensor(rate)).item()
    shift = 0.5 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / (1 - rate)
    for label, sign in ((0, 1), (1, -1)):
        own = sign * images[label::2]
        assert float(own.mean()) == pytest.approx(1 + shift, abs=0.04)
        assert float(own.min()) == pytest.approx(1 + 0.5 * z, abs=0.06)


def test_exact_counts_in_the_places_asked_for() -> None:
    selector = made(0.3, means=torch.tensor([[1.0], [0.0], [-1.0]]).double())
    labels = [2, 0, 0, 2, 2, 1, 0, 2]
    found = selector.select(labels=labels, seed=4)
    assert found.labels.tolist() == labels and found.images.shape == (8, 1, 1, 1)
    for image, label, seed, log_prob in zip(
        found.images, labels, found.seeds, found.log_probs, strict=True
    ):
        again = selector.sampler(labels=[label], seed=[seed])
        torch.testing.assert_close(again[0], image, rtol=1e-5, atol=1e-6)
        level = torch.full((1,), 0.002)
        own = selector.classifier(again, level).log_softmax(1)[0, label]
        assert float(own) == pytest.approx(float(log_prob), abs=1e-4)
    # ceil(4 / 0.7) + ceil(3 / 0.7) + ceil(1 / 0.7)
    assert found.candidates == 6 + 5 + 2 and found.nfe == pytest.approx(13 / 8)
    assert torch.equal(selector(labels=iter(labels), seed=4), found.images)
    assert selector(4).shape == (4, 1, 1, 1), "classes in turn"


def test_the_best_candidates_in_the_order_of_their_numbers() -> None:
    selector = made(0.6)
    found = selector.select(labels=[0] * 4, seed=8)
    seeds = [stream_seed(8, 0, j) for j in range(10)]
    all_of_them = selector.sampler(labels=[0] * 10, seed=seeds)
    log_probs = selector.classifier(all_of_them, torch.full((10,), 0.002)).log_softmax(1)[:, 0]
    ranked = log_probs.argsort(descending=True)[:4]
    best = ranked.sort().values
    assert not torch.equal(best, ranked)
    assert found.seeds == tuple(seeds[i] for i in best.tolist())
    torch.testing.assert_close(found.images, all_of_them[best], rtol=1e-5, atol=1e-6)


def test_confident_classifiers_are_still_told_apart() -> None:
    # Margins of 40 to 60: in float32 all these probabilities are 1.
    data = Classes(TWO, kind="trajectory")

    def margin(x, sigma):
        score = 50 + 2 * x[:, 0, 0, 0]
        return torch.stack([score, torch.zeros_like(score)], 1)

    selector = RejectionSampler(Sampler(data, clip=False), margin, rate=0.8)
    images = selector(labels=[0] * 5)
    seeds = [stream_seed(0, 0, j) for j in range(25)]
    others = selector.sampler(labels=[0] * 25, seed=seeds)
    torch.testing.assert_close(images.flatten().sort().values, others.flatten().sort().values[-5:])


def test_ties_keep_the_lower_number() -> None:
    data = Classes(TWO, kind="trajectory")
    selector = RejectionSampler(Sampler(data), lambda x, sigma: x.new_zeros(len(x), 2), rate=0.5)
    found = selector.select(labels=[1] * 3, seed=0)
    assert found.seeds == tuple(stream_seed(0, 1, j) for j in range(3))


def test_seeds_classes_and_batches(monkeypatch) -> None:
    labels = [0, 1] * 6
    found = made(0.4).select(labels=labels, seed=2)
    for size in (1, 3, 100):
        assert torch.equal(made(0.4, batch_size=size)(labels=labels, seed=2), found.images)
    monkeypatch.setattr(file, "CHUNK", 5)
    assert torch.equal(made(0.4)(labels=labels, seed=2), found.images)
    alone = made(0.4)(labels=[1] * 6, seed=2)
    assert torch.equal(alone, found.images[1::2]), "other classes do not matter"
    turned = made(0.4)(labels=labels[::-1], seed=2)
    assert torch.equal(turned[1::2], found.images[::2])
    assert not torch.equal(made(0.4)(labels=labels, seed=3), found.images)


@pytest.mark.parametrize(
    "accounting, rate, candidates, nfe",
    [
        ("paper", 0.0, 50, 1),
        ("paper", 0.2, 63, 1.25),
        ("paper", 0.5, 100, 2),
        ("official", 0.0, 50, 1),
        ("official", 0.1, 55, 1.1),
        ("official", 0.2, 60, 1.2),
        ("official", 1.5, 125, 2.5),
    ],
)
def test_accountings(accounting, rate, candidates, nfe) -> None:
    data = Classes(TWO, kind="trajectory")
    selector = RejectionSampler(Sampler(data, steps=2), data.classifier, rate, accounting)
    assert selector.candidates(50) == candidates
    assert selector.nfe == pytest.approx(2 * nfe)
    data.calls = 0
    found = selector.select(labels=[1] * 50)
    assert found.candidates == candidates and len(found.images) == 50
    assert found.nfe == pytest.approx(2 * candidates / 50)


def test_a_module_is_in_eval_mode_and_told_the_last_level() -> None:
    class Rater(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.seen = nn.Linear(32, 3), []

        def forward(self, x, sigma):
            assert not self.training and not torch.is_grad_enabled()
            self.seen.append(sigma)
            return self.linear(x.flatten(1))

    model, rater = small_model(label_dim=3), Rater()
    for options, level in ((dict(method="heun", steps=2), 0.002), (dict(steps=2), 0.002)):
        images = RejectionSampler(Sampler(model, **options), rater)(6)
        assert images.shape == (6, 2, 4, 4) and rater.training
        torch.testing.assert_close(rater.seen[-1], torch.full_like(rater.seen[-1], level))
    RejectionSampler(Sampler(model), rater, sigma=0.0)(3)
    assert float(rater.seen[-1].max()) == 0
    images.requires_grad_()


def test_of_a_model_that_a_classifier_guides() -> None:
    data = Classes(TWO, std=0.5, labelled=False)
    sampler = Sampler(data, steps=12, classifier=data.classifier, clip=False)
    images = RejectionSampler(sampler, data.classifier, rate=0.5)(labels=[0] * 20 + [1] * 20)
    assert images[:20].min() > 0.9 and images[20:].max() < -0.9


def test_what_is_refused() -> None:
    data = Classes(TWO, kind="trajectory")
    sampler = Sampler(data)
    for options, named in [
        (dict(rate=1.0), r"lies in \[0, 1\)"),
        (dict(rate=-0.1), "rate is -0.1"),
        (dict(rate=-0.1, accounting="official"), "at least 0"),
        (dict(accounting="ours"), "choose from"),
        (dict(sigma=-1.0), "sigma is -1.0"),
    ]:
        with pytest.raises(ValueError, match=named):
            RejectionSampler(sampler, data.classifier, **options)
    with pytest.raises(ValueError, match="takes labels"):
        RejectionSampler(Sampler(World()), data.classifier)
    with pytest.raises(ValueError, match="must be callable"):
        RejectionSampler(sampler, None)
    selector = RejectionSampler(sampler, data.classifier)
    with pytest.raises(ValueError, match="outside"):
        selector(labels=[2])
    with pytest.raises(ValueError, match="must be an integer"):
        selector(2, seed=1.5)
    with pytest.raises(ValueError, match="how many"):
        selector()
    few = RejectionSampler(Sampler(Classes(kind="trajectory")), lambda x, sigma: x[:, :, 0, 0])
    with pytest.raises(ValueError, match="2 classes, fewer than the model's 3"):
        few(3)
    nan = RejectionSampler(sampler, lambda x, sigma: x.new_full((len(x), 2), math.nan))
    with pytest.raises(ValueError, match="not all numbers"):
        nan(2)
