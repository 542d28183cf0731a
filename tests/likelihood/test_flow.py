"""Likelihood by the probability-flow ODE against closed forms."""

import math

import pytest
import torch

from ctm_fast import models
from ctm_fast.denoiser import Denoiser
from ctm_fast.likelihood import Flow, log_likelihood
from ctm_fast.sampler import image_seeds
from ctm_fast.solvers import SolverError
from ctm_fast.wrappers import Guided, Routed, wrap
from tests.analytic import Gaussian
from tests.likelihood.worlds import LN2, drawn, gaussian, mixture, wrapped

TIGHT = {"rtol": 1e-9, "atol": 1e-9}
LOOSE = {"rtol": 1e-3, "atol": 1e-3}


def small_net(**config):
    net = models.build("digits", img_resolution=4, model_channels=32, channel_mult=(1,),
                       num_blocks=1, seed=3, **{"label_dim": 0, **config})  # fmt: skip
    with torch.no_grad():  # a fresh network answers 0
        net.last_layer.weight.add_(drawn(*net.last_layer.weight.shape, scale=0.1))
    return net


@pytest.mark.parametrize("std", [0.25, 0.5, 1.0])
@pytest.mark.parametrize(("channels", "size"), [(1, 1), (1, 4), (3, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussian_data_within_1e_3_bits_per_dim(std, channels, size, dtype):
    x = drawn(6, channels, size, size, scale=std)
    dims = channels * size**2
    model = gaussian(std, channels, size, dtype)
    exact = Gaussian(0.0, std).log_prob(x, 0.002)
    # The customary prior costs (1 - q) ln(1 + std^2/80^2)/2 nats per dimension.
    q = x.flatten(1).square().mean(1) / std**2
    usual = exact + dims * 0.5 * (1 - q) * (std / 80) ** 2
    for state, tolerance, within in ((dtype, 1e-5, 1e-3), (torch.float64, 1e-6, 1e-4)):
        found = Flow(dtype=state, rtol=tolerance, atol=tolerance)(model, x)
        assert ((found.log_p - usual).abs() / dims / LN2).max() < within
        log_p = found.log_p - found.log_prior + Gaussian(0.0, std).log_prob(found.ends, 80.0)
        assert ((log_p - exact).abs() / dims / LN2).max() < within


def test_prior_mismatch_of_the_specification():
    """related_systems.md 7.7: -0.405784 integrated, -0.405796 exact, 1.25e-5 nats apart."""
    model, x = gaussian(size=1), torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64)
    usual = float(Flow(**TIGHT)(model, x).log_p)
    corrected = float(Flow(**TIGHT, prior_data_std=0.5)(model, x).log_p)
    assert usual == pytest.approx(-0.405784, abs=5e-7)
    assert corrected == pytest.approx(-0.4057965, abs=5e-8)
    assert corrected == pytest.approx(float(Gaussian().log_prob(x, 0.002)), abs=1e-9)
    assert usual - corrected == pytest.approx(1.25e-5, rel=1e-3)


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize(
    ("options", "within"), [({}, 1e-3), (TIGHT, 1e-7), ({"solver": "heun", "steps": 512}, 1e-3)]
)
def test_mixture_with_the_exact_prior(dims, options, within):
    data, x = mixture(dims), drawn(16, dims, scale=0.6)
    found = Flow(**options)(wrapped(data), x)
    log_p = found.log_p - found.log_prior + data.log_prob(found.ends, 80.0)
    assert (log_p - data.log_prob(x, 0.002)).abs().max() < within


def test_the_density_of_a_wrong_denoiser_integrates_to_one():
    """Any field has a flow and any flow a density: a half-trained model's bits are honest."""
    data = mixture(1)

    def wrong(x, t):
        t = t[:, None]
        return data(x, t) + 0.3 * torch.sin(4 * x) * t / (1 + t**2) - 0.1 * x * t**2 / (1 + t**4)

    model = wrap(wrong, kind="denoiser", shape=(1,), sigma_min=0.05)
    x = torch.linspace(-3, 3, 301, dtype=torch.float64)[:, None]
    assert (wrong(x, x.new_ones(301)) - data(x, 1.0)).abs().max() > 0.1
    density = log_likelihood(model, x, rtol=1e-4, atol=1e-4).exp()
    assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1, abs=2e-3)


def test_other_levels_and_where_images_end():
    data, x = mixture(1), drawn(8, 1, scale=0.6)
    found = Flow(**TIGHT)(wrapped(data), x, sigma=0.3)
    log_p = found.log_p - found.log_prior + data.log_prob(found.ends, 80.0)
    assert torch.allclose(log_p, data.log_prob(x, 0.3), atol=1e-6)
    assert torch.allclose(found.ends, data.jump(x, 0.3, 80.0), rtol=1e-5)
    for sigma in (0.0, 80.0, math.nan):
        with pytest.raises(ValueError, match="above 0 and below sigma_max"):
            Flow()(wrapped(data), x, sigma=sigma)


def test_exact_trace_against_64_probes():
    mix = drawn(6, 6, seed=5)

    def bent(x, t):
        kept = 0.25 / (0.25 + t[:, None] ** 2)
        return kept * x + kept * (1 - kept) * torch.sin(x @ mix.T)

    model = wrap(bent, kind="denoiser", shape=(6,))
    x = drawn(3, 6)
    exact = Flow(trace="exact", **LOOSE)(model, x)
    guessed = Flow(trace="hutchinson", probes=64, **LOOSE)(model, x)
    assert (exact.passes, guessed.passes) == (6, 64)
    single = [log_likelihood(model, x, trace="hutchinson", seed=s, **LOOSE) for s in range(12)]
    scatter = (torch.stack(single) - exact.log_p).square().mean(0).sqrt()
    assert scatter.min() > 0.01
    assert ((guessed.log_p - exact.log_p).abs() < 4 * scatter / 8).all()


def test_an_image_does_not_depend_on_its_batch():
    model, x = Denoiser(small_net()).double(), drawn(3, 1, 4, 4)
    x[1] *= 20
    options = {"rtol": 1e-3, "atol": 1e-3, "trace": "hutchinson"}
    whole = Flow(**options)(model, x, seed=7)
    parts = Flow(batch_size=2, **options)(model, x, seed=7)
    assert torch.allclose(whole.log_p, parts.log_p, rtol=0, atol=1e-8)
    assert torch.equal(whole.nfe, parts.nfe) and len(whole.nfe.unique()) > 1
    last = Flow(**options)(model, x[2:], seed=image_seeds(7, 1, start=2))
    assert torch.allclose(whole.log_p[2:], last.log_p, rtol=0, atol=1e-8)
    other = Flow(**options)(model, x[:1], seed=8).log_p
    assert abs(other - whole.log_p[0]) > 1e-3


def test_labels_reach_the_network_and_the_model_is_left_as_it_was():
    net = small_net(label_dim=3, dropout=0.5)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(drawn(*parameter.shape, scale=0.02))
    model, x = Denoiser(net).train(), drawn(2, 1, 4, 4)
    options = {"rtol": 1e-3, "atol": 1e-3, "trace": "hutchinson"}
    with torch.inference_mode():
        zero = log_likelihood(model, x.float(), [0, 0], **options)
    assert model.training and all(m.training for m in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    one = log_likelihood(model, x.float(), torch.tensor([0, 1]), **options)
    weights = torch.eye(3)[[0, 1]]
    assert torch.allclose(one, log_likelihood(model, x.float(), weights, **options), atol=2e-4)
    assert abs(one[0] - zero[0]) < 2e-4 < 2e-3 < abs(one[1] - zero[1])


def test_network_calls_are_reported():
    model, x = gaussian(0.25), drawn(4, 1, 4, 4)
    found = Flow(batch_size=3)(model, x)
    assert found.passes == 16
    # Beside the solve: one call with gradient and two without, which check the gradient.
    assert model.net.rows == int(found.nfe.sum()) + 3
    assert found.nfe.min() > 20
    assert Flow(solver="heun", steps=5)(model, x).nfe.tolist() == [10] * 4
    assert len(log_likelihood(model, x[:0])) == 0


def test_guided_routed_and_foreign_models():
    x, exact = drawn(3, 1, 4, 4), None
    good = gaussian()
    exact = log_likelihood(good, x)
    for model in (
        Routed([good, gaussian()], [1.0]),
        Guided(good, gaussian(), weight=2.0),
        wrap(lambda x, t: Gaussian()(x, t), kind="denoiser", shape=(1, 4, 4)),
        wrap(lambda x, t, s: Gaussian().jump(x, t, s), kind="trajectory", shape=(1, 4, 4)),
        wrap(
            lambda y, t: Gaussian().score(y / (1 - t).view(-1, 1, 1, 1), t / (1 - t))
            * -(t / (1 - t) ** 2).view(-1, 1, 1, 1) - y / (1 - t).view(-1, 1, 1, 1),
            kind="velocity", time="flow", shape=(1, 4, 4), sigma_min=0.002,
        ),
    ):  # fmt: skip
        assert torch.allclose(log_likelihood(model, x), exact, atol=2e-3), model


def test_what_is_refused():
    x, model = drawn(2, 1, 4, 4), gaussian()
    consistency = Denoiser(small_net(), kind="consistency")
    with pytest.raises(ValueError, match="kind 'consistency' has no score"):
        log_likelihood(consistency, drawn(2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"shape \(2, 1, 4, 5\); need \(batch, \*\(1, 4, 4\)\)"):
        log_likelihood(model, drawn(2, 1, 4, 5))
    with pytest.raises(ValueError, match=r"labels .* for an unconditional model"):
        log_likelihood(model, x, [1, 1])
    with pytest.raises(ValueError, match=r"unknown options \['rtoll'\]; choose from"):
        log_likelihood(model, x, rtoll=1e-3)
    with pytest.raises(SolverError, match="raise max_steps"):
        log_likelihood(gaussian(0.2), x, max_steps=2)
    wrong = {"solver": "rk4", "trace": "guess", "probes": 0, "prior_data_std": -1.0}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            Flow(**{name: value})
    for options in ({"batch_size": 0}, {"dtype": torch.float16}, {"rtol": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            log_likelihood(model, x, **options)
