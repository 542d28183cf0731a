"""Guidance at the front door, against guided distributions and flows in closed form."""

import dataclasses
import pickle

import pytest
import torch
from torch import nn

from ctm_fast.sampler import Sampler
from ctm_fast.sampler.guided import Told
from ctm_fast.sigmas import karras_sigmas
from ctm_fast.wrappers import ClassifierGuided, Guided

from ..analytic import Gaussian
from ..inference.fake_cuda import FakeCuda
from .classes import Classes, flow, start
from .worlds import World, small_model, unet_model

EXACT = dict(state_dtype=torch.float64, clip=False)
CLOSE = dict(rtol=1e-9, atol=1e-9)
LABELS = [0, 2, 1, 0, 1, 2]
TENSOR = torch.tensor(LABELS)
LOW = 0.002


class One(Classes):
    """A single Gaussian that ignores labels."""

    def __init__(self, mean: float, std: float, kind: str = "denoiser", size: int = 1) -> None:
        super().__init__(
            torch.full((1, 2), mean, dtype=torch.float64), std, kind, size, labelled=False
        )

    def __call__(self, x, sigma, labels=None):
        return Gaussian(float(self.means[0, 0]), self.std)(x, sigma)

    def jump(self, x, sigma, sigma_to, labels=None):
        return Gaussian(float(self.means[0, 0]), self.std).jump(x, sigma, sigma_to)


def guided_flow(weight: float, x: torch.Tensor, data: Classes) -> torch.Tensor:
    """The flow of score + weight * gradient of log p(label | x), integrated in float64."""

    def denoise(x, sigma):
        level = torch.full((len(x),), float(sigma), dtype=x.dtype)
        return data(x, level) + weight * float(sigma) ** 2 * data.gradient(x, sigma, TENSOR)

    return flow(denoise, x, 80.0, LOW)


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_classifier_guidance_follows_the_guided_flow_in_second_order(weight) -> None:
    data, x = Classes(labelled=False), start(6)
    exact, errors = guided_flow(weight, x, data), []
    for steps in (32, 64, 128):
        sampler = Sampler(
            data,
            method="heun",
            sigmas=karras_sigmas(steps + 1),
            classifier=data.classifier,
            classifier_weight=weight,
            **EXACT,
        )
        errors.append(float((sampler(noise=x, labels=LABELS) - exact).abs().max()))
    assert errors[2] < 2e-3
    assert errors[1] / errors[2] == pytest.approx(4, abs=0.8)


@pytest.mark.parametrize(
    "options", [dict(), dict(method="euler", steps=12), dict(method="churn", steps=64)]
)
def test_weight_one_samples_the_class(options) -> None:
    data, unlabelled = Classes(), Classes(labelled=False)
    own = Sampler(data, **options, **EXACT)(noise=start(6), labels=LABELS, seed=2)
    found = Sampler(unlabelled, classifier=data.classifier, **options, **EXACT)
    torch.testing.assert_close(found(noise=start(6), labels=LABELS, seed=2), own, **CLOSE)
    means = data.means[TENSOR][:, :, None, None]
    assert ((own - means).abs() < 4 * data.std).all()


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_leaving_out_labels_is_the_true_classifier(weight) -> None:
    # D + w (D_label - D) on the mixture, and D + w t^2 grad log p(label | x), are the same field.
    data, unlabelled, x = Classes(), Classes(labelled=False), start(6)
    steps = dict(method="heun", sigmas=karras_sigmas(129))
    free = Sampler(data, guidance=weight, **steps, **EXACT)
    led = Sampler(
        unlabelled, classifier=data.classifier, classifier_weight=weight, **steps, **EXACT
    )
    images = free(noise=x, labels=LABELS)
    torch.testing.assert_close(images, led(noise=x, labels=LABELS), **CLOSE)
    torch.testing.assert_close(images, guided_flow(weight, x, unlabelled), rtol=0, atol=2e-3)
    assert free.nfe == 2 * led.nfe == 2 * 256


@pytest.mark.parametrize("guidance", [0.5, 1.0, 2.5])
def test_autoguidance_of_gaussians_of_one_variance_is_a_gaussian(guidance) -> None:
    mean, x = guidance * 0.8 + (1 - guidance) * 0.2, start(5)
    exact = Gaussian(mean, 0.3).jump(x, 80.0, LOW)
    good, bad = One(0.8, 0.3, "trajectory"), One(0.2, 0.3, "trajectory")
    for steps in (1, 3):
        jumps = Sampler(good, steps=steps, bad=bad, guidance=guidance, **EXACT)
        torch.testing.assert_close(jumps(noise=x), exact, **CLOSE)
    heun = Sampler(
        good, method="heun", sigmas=karras_sigmas(101), bad=bad, guidance=guidance, **EXACT
    )
    torch.testing.assert_close(heun(noise=x), exact, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    "kind, options, spread",
    [
        ("denoiser", dict(method="churn", steps=100, S_churn=20.0, S_noise=1.0), 0.03),
        ("trajectory", dict(steps=4, gamma=0.7), 0.02),
    ],
)
def test_the_guided_gaussian_with_fresh_noise(kind, options, spread) -> None:
    good, bad = One(0.8, 0.3, kind, size=16), One(0.2, 0.3, kind, size=16)
    images = Sampler(good, bad=bad, guidance=2.0, **options, **EXACT)(100, seed=1)
    exact = Sampler(One(1.4, 0.3, kind, size=16), **options, **EXACT)(100, seed=1)
    torch.testing.assert_close(images, exact, **CLOSE)
    # 51200 numbers: three standard errors are 0.004 of the mean and 2 % of the variance.
    assert float(images.mean()) == pytest.approx(1.4, abs=0.004)
    assert float(images.var() / 0.3**2) == pytest.approx(1, abs=spread)


@pytest.mark.parametrize("guidance", [0.5, 3.0])
def test_autoguidance_of_gaussians_of_two_variances(guidance) -> None:
    # dx/dsigma = sigma x (w / (v1 + sigma^2) + (1 - w) / (v0 + sigma^2)) is solved by a product.
    x = start(5)

    def ratio(std: float) -> float:
        return ((std**2 + LOW**2) / (std**2 + 80.0**2)) ** 0.5

    exact = x * ratio(0.3) ** guidance * ratio(0.9) ** (1 - guidance)
    steps = dict(method="heun", sigmas=karras_sigmas(257))
    sampler = Sampler(One(0.0, 0.3), bad=One(0.0, 0.9), guidance=guidance, **steps, **EXACT)
    torch.testing.assert_close(sampler(noise=x), exact, rtol=4e-3, atol=0)


def test_jumps_guided_by_a_classifier() -> None:
    means = torch.tensor([[0.5], [-0.7]], dtype=torch.float64)
    data, labels = Classes(means, kind="trajectory", labelled=False), torch.tensor([0, 1] * 3)
    given, x, errors = Classes(means), start(6, channels=1), []
    exact = Gaussian(means[labels][:, :, None, None], data.std).jump(x, 80.0, LOW)
    for steps in (1, 8, 32, 128):
        sampler = Sampler(data, steps=steps, classifier=data.classifier, **EXACT)
        errors.append(float((sampler(noise=x, labels=labels) - exact).abs().max()))
    assert errors[3] < 0.02 and errors[2] / errors[3] == pytest.approx(4, abs=1)
    # One jump, no better than the mean of the class at 80 lets it be.
    shift = given(x, torch.full((6,), 80.0).double(), labels) - data(x, torch.full((6,), 80.0))
    one = Sampler(data, classifier=data.classifier, **EXACT)(noise=x, labels=labels)
    plain = Sampler(data, **EXACT)(noise=x)
    torch.testing.assert_close(one - plain, (1 - LOW / 80) * shift, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("options", [dict(guidance=2.0), dict(classifier_weight=1.5)])
@pytest.mark.parametrize("steps", [dict(steps=4), dict(method="churn", steps=4)])
def test_a_batch_split_never_changes_an_image(options, steps) -> None:
    data = Classes()
    if "classifier_weight" in options:
        options = dict(options, classifier=data.classifier)
    whole = Sampler(data, **options, **steps)(7, seed=3)
    for batch_size in (1, 3):
        split = Sampler(data, batch_size=batch_size, **options, **steps)(7, seed=3)
        torch.testing.assert_close(split, whole, rtol=0, atol=1e-6)


class Logits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.last = nn.Dropout(0.5), nn.Linear(32, 3)

    def forward(self, x, sigma):
        return self.last(self.dropout(x).flatten(1))


@pytest.mark.parametrize("kind", ["denoiser", "consistency", "trajectory"])
def test_networks_frozen_and_not(kind) -> None:
    model, classifier = unet_model(kind), Logits()
    classifier.train()
    options = dict(steps=2, classifier=classifier, classifier_weight=2.0, clip=False)
    sampler = Sampler(model, **options)
    assert sampler.freeze and sampler.buckets is None
    found = sampler(labels=[0, 1, 2], seed=4)
    plain = Sampler(model, freeze=False, **options)(labels=[0, 1, 2], seed=4)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-3)
    assert classifier.dropout.training, "its mode is put back"
    assert torch.equal(sampler(labels=[0, 1, 2], seed=4), found), "dropout is off"
    assert all(p.grad is None for p in (*model.parameters(), *classifier.parameters()))
    with torch.no_grad():
        classifier.last.weight.mul_(-1)
    assert not torch.equal(sampler(labels=[0, 1, 2], seed=4), found), "it is not copied"
    torch.testing.assert_close(pickle.loads(pickle.dumps(sampler))(3, seed=4), sampler(3, seed=4))


def test_no_graph_holds_a_classifier(monkeypatch) -> None:
    fake = FakeCuda(monkeypatch)
    model, options = unet_model(), dict(classifier=Logits(), clip=False)
    with pytest.raises(ValueError, match=r"graphs=True is impossible here: a classifier's grad"):
        Sampler(model, graphs=True, **options)
    nested = Guided(ClassifierGuided(model, Logits()), unet_model(seed=1))
    with pytest.raises(ValueError, match="computed by autograd inside the run"):
        Sampler(nested, graphs=True)
    expected = Sampler(model, freeze=False, **options)(labels=[1, 2], seed=3)
    torch.testing.assert_close(
        Sampler(model, **options)(labels=[1, 2], seed=3), expected, rtol=0, atol=1e-3
    )
    assert not fake.captured


@pytest.mark.parametrize("kind", ["denoiser", "consistency", "trajectory"])
def test_nothing_reads_from_the_device(kind) -> None:
    model, classifier = small_model(kind).to("meta"), Logits().to("meta")
    assert Sampler(model, steps=2, classifier=classifier)(3).is_meta


@pytest.mark.gpu
def test_gpu_makes_the_images_of_the_cpu() -> None:
    model, classifier = unet_model(), Logits()
    options = dict(steps=2, clip=False)
    here = Sampler(model, classifier=classifier, **options)(3, seed=1)
    there = Sampler(model.cuda(), classifier=classifier.cuda(), **options)(3, seed=1)
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1e-2)


def test_the_attribute_model_is_what_guides() -> None:
    labelled, other = small_model(label_dim=3), small_model(label_dim=3, seed=1)
    sampler = Sampler(labelled, guidance=2.0)
    assert isinstance(sampler.model, Guided) and sampler.model.weight == 2
    assert "Guided of kind 'trajectory' (weight=2, kind=trajectory, by leaving" in repr(sampler)
    assert Sampler(labelled, other and None, guidance=1.0).model is labelled, "1 is off"
    assert Sampler(labelled, bad=other, guidance=3).model.members == (labelled, other)
    led = Sampler(labelled, guidance=2.0, classifier=Logits()).model
    assert isinstance(led, ClassifierGuided) and isinstance(led.members[0], Guided)
    assert led.weight == 1 and led.network_calls == 2
    again = dataclasses.replace(sampler, clip=False)
    assert again.model is sampler.model, "guided once"
    assert not dataclasses.fields(Told), "its keywords are used up"


def test_guided_callables_take_their_own_levels_and_shape() -> None:
    def net(x, t):
        return -x

    foreign = dict(kind="velocity", time="flow", shape=(1, 4, 6))
    for method in (None, "euler"):
        plain = Sampler(net, method=method, steps=4, **foreign)
        for told in (dict(bad=net, guidance=2.0), dict(classifier=lambda x, s: x[:, 0, 0, :3])):
            guided = Sampler(net, method=method, steps=4, **told, **foreign)
            assert guided.sigmas == plain.sigmas
            assert guided(3).shape == plain(3).shape == (3, 1, 4, 6)


def test_callables_of_other_codebases() -> None:
    def net(x, sigma):
        return Gaussian(0.8, 0.3)(x, sigma)

    def worse(x, sigma):
        return Gaussian(0.2, 0.3)(x, sigma)

    x, foreign = start(2), dict(kind="denoiser", shape=(2, 1, 1))
    found = Sampler(net, bad=worse, guidance=2.0, **foreign, **EXACT)(noise=x)
    expected = Sampler(One(1.4, 0.3), **EXACT)(noise=x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options, named",
    [
        (dict(bad=World()), "bad= needs guidance="),
        (dict(guidance=float("inf")), "guidance is inf"),
        (dict(guidance=2.0), "no labels to leave out; give bad="),
        (dict(classifier_weight=2.0), "classifier_weight=2.0 without classifier="),
        (dict(classifier=3), "must be callable"),
    ],
)
def test_what_is_refused(options, named) -> None:
    with pytest.raises(ValueError, match=named):
        Sampler(World(), **options)
