"""Classifier guidance against closed forms of Gaussian classes, and its limits in jumps."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from ctm_fast.sigmas import karras_sigmas
from ctm_fast.wrappers import ClassifierGuided, Guided
from ctm_fast.wrappers.classifier_guided import label_gradient

from ..sampler.classes import Classes, flow, start
from ..sampler.worlds import World, latents, small_model, unet_model

EXACT = dict(rtol=1e-9, atol=1e-9)
LABELS = torch.tensor([0, 2, 1, 1, 2])
ONE = torch.tensor([[0.5], [-0.7]], dtype=torch.float64)


class Logits(nn.Module):
    """A small classifier with parts that behave differently in training."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm2d(2), nn.Dropout(0.5)
        self.last = nn.Linear(33, classes)

    def forward(self, x, sigma):
        assert x.dtype == self.last.weight.dtype
        rows = torch.cat([self.dropout(self.norm(x)).flatten(1), sigma[:, None].log().to(x)], 1)
        return self.last(rows)


@pytest.mark.parametrize("sigma", [0.05, 0.7, 6.0])
def test_weight_one_is_bayes_rule(sigma) -> None:
    data, unlabelled = Classes(), Classes(labelled=False)
    x = start(5, sigma=sigma)
    guided = ClassifierGuided(unlabelled, data.classifier)
    levels = torch.full((5,), sigma, dtype=torch.float64)
    torch.testing.assert_close(guided(x, sigma, LABELS), data(x, levels, LABELS), **EXACT)
    assert guided.label_dim == 3


@pytest.mark.parametrize("weight", [-1.0, 0.5, 3.0])
def test_formula(weight) -> None:
    data = Classes(labelled=False)
    x = start(5, sigma=2.0)
    guided = ClassifierGuided(data, data.classifier, weight=weight)
    sigma = torch.tensor([0.1, 0.5, 1.0, 3.0, 9.0], dtype=torch.float64)
    c = data.gradient(x, sigma, LABELS)
    t = sigma.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(
        guided(x, sigma, LABELS), data(x, sigma) + weight * t**2 * c, **EXACT
    )
    score = (data(x, sigma) - x) / t**2 + weight * c
    torch.testing.assert_close(guided.score(x, sigma, LABELS), score, **EXACT)
    # Central differences of log p(label | x) agree with the closed form.
    step = torch.zeros_like(x)
    step[:, 0] = 1e-5
    rows = [data.log_joint(x + h, sigma).log_softmax(1)[range(5), LABELS] for h in (step, -step)]
    torch.testing.assert_close((rows[0] - rows[1]) / 2e-5, c[:, 0, 0, 0], rtol=1e-5, atol=1e-8)


def test_labels_as_weights() -> None:
    data = Classes(labelled=False)
    guided, x = ClassifierGuided(data, data.classifier, weight=2), start(5, sigma=1.0)
    weights = nn.functional.one_hot(LABELS, 3).double()
    torch.testing.assert_close(guided(x, 1.0, weights), guided(x, 1.0, LABELS), **EXACT)
    sigma = torch.ones(5, dtype=torch.float64)
    torch.testing.assert_close(guided(x, 1.0, 0 * weights), data(x, sigma), **EXACT)


@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_many_jumps_converge_to_the_guided_flow_in_first_order(weight) -> None:
    data = Classes(means=ONE, kind="trajectory", labelled=False)
    guided = ClassifierGuided(data, data.classifier, weight=weight)
    x, labels = start(6, channels=1, sigma=10.0), torch.tensor([0, 1, 0, 1, 0, 1])

    def denoise(x, sigma):
        level = torch.full((6,), float(sigma), dtype=x.dtype)
        return data(x, level) + weight * float(sigma) ** 2 * data.gradient(x, sigma, labels)

    exact, errors = flow(denoise, x, 10.0, 0.1), []
    for steps in (20, 40, 80):
        levels, state = karras_sigmas(steps + 1, 0.1, 10.0).tolist(), x
        for sigma, sigma_to in pairwise(levels):
            state = guided.jump(state, sigma, sigma_to, labels)
        errors.append(float((state - exact).abs().max()))
    assert errors[2] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.35)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.2)


def test_one_long_jump_moves_by_the_difference_of_the_means() -> None:
    data = Classes(means=ONE, kind="trajectory", labelled=False)
    x, labels = start(4, channels=1), torch.tensor([0, 1, 0, 1])
    t, s = torch.full((4,), 80.0, dtype=torch.float64), torch.full((4,), 0.002).double()
    given, own = Classes(means=ONE)(x, t, labels), data(x, t)
    for weight in (1.0, 2.0):
        jumped = ClassifierGuided(data, data.classifier, weight=weight).jump(x, 80.0, 0.002, labels)
        expected = data.jump(x, t, s) + (1 - 0.002 / 80) * weight * (given - own)
        torch.testing.assert_close(jumped, expected, **EXACT)


def test_a_jump_to_its_own_level_is_the_identity() -> None:
    data = Classes(means=ONE, kind="trajectory", labelled=False)
    x = start(2, channels=1, sigma=1.0)
    found = ClassifierGuided(data, data.classifier).jump(x, 1.0, 1.0, torch.tensor([0, 1]))
    torch.testing.assert_close(found, x, **EXACT)


@pytest.mark.parametrize("kind", ["denoiser", "consistency", "trajectory"])
def test_every_kind_in_inference_mode_and_without(kind) -> None:
    model, classifier = small_model(kind).eval(), Logits().eval()
    guided, x = ClassifierGuided(model, classifier, weight=2).eval(), latents(5, 2.0).float()
    c = label_gradient(classifier, x, torch.full((5,), 2.0), LABELS)
    end = model.sigma_min if kind == "consistency" else 0.0
    expected = model(x, 2.0) + 2 * 2.0 * (2.0 - end) * c
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with mode():
            labels, own = LABELS.clone(), x.clone()
            found = guided(own, torch.full((5,), 2.0), labels)
            torch.testing.assert_close(found, expected)
            assert all(p.grad is None for p in guided.parameters())
            if kind != "denoiser":
                to = model.sigma_min if kind == "consistency" else 0.5
                landed = model.jump(own, 2.0, to) + 2 * 2.0 * (2.0 - to) * c
                torch.testing.assert_close(guided.jump(own, 2.0, to, labels), landed)


@pytest.mark.parametrize("own", [torch.float32, torch.float64, torch.bfloat16])
def test_a_classifier_gets_its_own_dtype(own) -> None:
    guided = ClassifierGuided(World(), Logits().eval().to(own), weight=2)
    for dtype in (torch.float32, torch.float64):
        x = latents(5, 1.0).to(dtype)
        found = guided(x, 1.0, LABELS)
        assert found.dtype == dtype and found.isfinite().all() and not torch.equal(found, x)


def test_counting_classes_changes_nothing() -> None:
    model, classifier = small_model(), Logits(7)
    classifier.dropout.eval()
    modes = [m.training for m in classifier.modules()]
    before = classifier.norm.running_mean.clone(), torch.get_rng_state()
    guided = ClassifierGuided(model, classifier)
    assert guided.label_dim == 7
    assert [m.training for m in classifier.modules()] == modes
    assert torch.equal(classifier.norm.running_mean, before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert "weight=1, classes=7" in repr(guided) and guided.network_calls == 1


def test_labels_reach_a_conditional_model_and_the_classifier() -> None:
    model = unet_model("trajectory", label_dim=3).eval()
    classifier, x = Logits().eval(), latents(5, 2.0).float()
    guided = ClassifierGuided(model, classifier).eval()
    c = label_gradient(classifier, x, torch.full((5,), 2.0), LABELS)
    torch.testing.assert_close(guided(x, 2.0, LABELS), model(x, 2.0, LABELS) + 4 * c)


def test_around_classifier_free_guidance() -> None:
    data = Classes()
    x = start(5, sigma=1.5)
    both = ClassifierGuided(Guided(data, weight=2.0), data.classifier, weight=0.5)
    sigma = torch.full((5,), 1.5, dtype=torch.float64)
    own = data(x, sigma)
    expected = own + 2.5 * (data(x, sigma, LABELS) - own)
    torch.testing.assert_close(both(x, 1.5, LABELS), expected, **EXACT)
    assert both.network_calls == 2


def test_what_is_refused() -> None:
    data = Classes(labelled=False)
    with pytest.raises(ValueError, match="weight is nan"):
        ClassifierGuided(data, data.classifier, weight=float("nan"))
    with pytest.raises(ValueError, match="must be callable"):
        ClassifierGuided(data, None)
    with pytest.raises(ValueError, match=r"answered \(1, 2, 1, 1\); need logits \(1, classes\)"):
        ClassifierGuided(data, lambda x, sigma: x)
    with pytest.raises(ValueError, match="1 class"):
        ClassifierGuided(data, lambda x, sigma: x[:, :1, 0, 0])
    with pytest.raises(ValueError, match="classes is 4; need at least 2, and a conditional"):
        ClassifierGuided(Classes(), data.classifier, classes=4)
    guided, x = ClassifierGuided(data, data.classifier), start(2, sigma=1.0)
    with pytest.raises(ValueError, match="needs labels"):
        guided(x, 1.0)
    many = ClassifierGuided(unet_model(label_dim=5), Logits(3).eval())
    with pytest.raises(ValueError, match="has 3 classes; need 5"):
        many(latents(1).float(), 1.0, torch.tensor([0]))
    with torch.no_grad():
        weights = torch.ones(2, 3)
    constant = ClassifierGuided(data, lambda x, sigma: weights.expand(len(x), 2, 3)[:, 0])
    with pytest.raises(ValueError, match="do not depend on x through autograd"):
        constant(x, 1.0, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="cannot jump"):
        ClassifierGuided(small_model("denoiser"), Logits()).jump(
            latents(1).float(), 1.0, 0.5, torch.tensor([0])
        )
