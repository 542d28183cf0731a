"""Guidance: f_bad + w (f_good - f_bad) for every kind of model, and without labels."""

import pytest
import torch

from ctm_fast.sampler import Sampler
from ctm_fast.wrappers import Guided, wrap

from ..sampler.worlds import World, latents, small_model, unet_model

KINDS = ("denoiser", "consistency", "trajectory")


@pytest.mark.parametrize("kind", KINDS)
def test_formula(kind: str) -> None:
    good, bad = (small_model(kind, seed=seed).eval() for seed in (0, 1))
    guided = Guided(good, bad, weight=1.7).eval()
    x, sigma = latents(3, 5.0), torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
    calls = [lambda model: model(x, sigma), lambda model: model(x, 2.0)]
    if kind == "trajectory":
        calls.append(lambda model: model.jump(x, sigma, sigma / 2))
    if kind == "consistency":
        calls.append(lambda model: model.jump(x, sigma, 0.002))
    for call in calls:
        expected = call(bad) + 1.7 * (call(good) - call(bad))
        torch.testing.assert_close(call(guided), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_by_itself_it_changes_nothing(kind: str) -> None:
    model = small_model(kind).eval()
    x = latents(2, 3.0)
    torch.testing.assert_close(Guided(model, model, weight=3.0)(x, 3.0), model(x, 3.0))


def test_weight_one_asks_the_good_model_only() -> None:
    good, bad = World(), World()
    guided = Guided(good, bad, weight=1)
    guided(latents(2), 80.0)
    assert (good.calls, bad.calls, guided.network_calls) == (1, 0, 1)


def test_what_cannot_be_guided() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        Guided(World(), World(), weight=float("nan"))
    with pytest.raises(ValueError, match="no labels to leave out"):
        Guided(World())
    with pytest.raises(ValueError, match="nothing is left out"):
        Guided(World(), World(), null_label=3)
    with pytest.raises(ValueError, match="no noise level in common"):
        Guided(World(sigma_max=1.0), World(sigma_min=2.0))
    with pytest.raises(ValueError, match="cannot jump"):
        model = small_model("denoiser")
        Guided(model, model).jump(latents(1), 1.0, 0.5)


def test_range_is_what_both_know() -> None:
    guided = Guided(World("denoiser", sigma_max=60.0), World("denoiser", sigma_min=0.01))
    assert (guided.sigma_min, guided.sigma_max) == (0.01, 60.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("null_label", [None, 2])
def test_without_labels(kind: str, null_label: int | None) -> None:
    model = unet_model(kind, label_dim=3).eval()
    x, labels = latents(4, 2.0).float(), torch.tensor([0, 1, 1, 0])
    none = None if null_label is None else torch.full((4,), null_label)
    expected = 1.5 * model(x, 2.0, labels) - 0.5 * model(x, 2.0, none)
    for batched in (True, False):
        guided = Guided(model, weight=1.5, batched=batched, null_label=null_label).eval()
        for sigma in (2.0, torch.tensor(2.0), torch.full((4,), 2.0)):
            torch.testing.assert_close(guided(x, sigma, labels), expected, rtol=1e-4, atol=1e-4)
        with pytest.raises(ValueError, match="needs labels"):
            guided(x, 2.0)
    assert guided.network_calls == 2


def test_a_callable_of_integer_labels_needs_the_one_for_none() -> None:
    def net(x, sigma, y):
        return x * (1 + y[:, None, None, None]) / 10

    model = wrap(net, kind="denoiser", shape=(2, 4, 4), label_dim=3)
    with pytest.raises(ValueError, match=r"say which one stands for none, Guided\(wrap"):
        Guided(model, weight=2.0)
    x, labels = latents(2).float(), torch.tensor([0, 2])
    for batched in (True, False):
        guided = Guided(model, weight=2.0, null_label=3, batched=batched)
        expected = 2 * model(x, 1.0, labels) - model(x, 1.0, torch.tensor([3, 3]))
        torch.testing.assert_close(guided(x, 1.0, labels), expected)


def test_labels_as_weights() -> None:
    model = unet_model("denoiser", label_dim=3).eval()
    x, labels = latents(2, 2.0).float(), torch.tensor([2, 0])
    weights = torch.nn.functional.one_hot(labels, 3).float()
    guided = Guided(model, weight=2.0).eval()
    torch.testing.assert_close(guided(x, 2.0, weights), guided(x, 2.0, labels))


def test_a_bad_model_may_be_unconditional() -> None:
    good, bad = small_model(label_dim=3).eval(), small_model(seed=1).eval()
    guided = Guided(good, bad, weight=2.0).eval()
    x, labels = latents(2, 2.0).float(), torch.tensor([2, 0])
    expected = 2 * good(x, 2.0, labels) - bad(x, 2.0)
    torch.testing.assert_close(guided(x, 2.0, labels), expected, rtol=1e-5, atol=1e-5)
    assert guided.label_dim == 3


def test_gradients_reach_both() -> None:
    good, bad = small_model(), small_model(seed=1)
    Guided(good, bad)(latents(2).float(), 2.0).sum().backward()
    assert good.net.first.weight.grad.norm() > 0
    assert bad.net.first.weight.grad.norm() > 0


def test_sampling_counts_both_networks() -> None:
    good, bad = World("consistency"), World("consistency")
    sampler = Sampler(Guided(good, bad, weight=1.3), steps=2)
    assert sampler.nfe == 4
    sampler(3)
    assert (good.calls, bad.calls) == (2, 2)
    heun = Sampler(Guided(World("denoiser"), World("denoiser")), steps=3)
    assert heun.nfe == 10
