"""The ELBO on Gaussian data, where it equals the log likelihood, and on worse denoisers."""

import math

import pytest
import torch

from ctm_fast.likelihood import bits_per_dim, elbo, per_dim
from ctm_fast.likelihood import bound as bound_file
from ctm_fast.likelihood.bound import Proposal
from ctm_fast.sampler import image_seeds, noise_for
from ctm_fast.wrappers import wrap
from tests.analytic import Gaussian
from tests.likelihood.worlds import drawn, gaussian


@pytest.mark.parametrize("std", [0.3, 0.5, 1.0])
def test_exact_denoiser_has_the_log_likelihood(std):
    """For an exact denoiser nothing is lost; samples of an image scatter around log p."""
    x = drawn(4, 1, 4, 4, scale=std)
    runs = torch.stack([elbo(gaussian(std), x, samples=64, seed=s) for s in range(16)])
    error = runs.std(0) / 4
    # Beside log p of the data itself, the customary prior at sigma_max.
    q = x.flatten(1).square().mean(1) / std**2
    exact = Gaussian(0.0, std).log_prob(x, 0.0) + 8 * (1 - q) * (std / 80) ** 2
    assert ((runs.mean(0) - exact).abs() < 4.5 * error).all()
    assert error.mean() < 1.0


def test_minus_elbo_is_above_minus_log_p_for_a_worse_denoiser():
    wrong = wrap(Gaussian(0.0, 0.35), kind="denoiser", shape=(1, 4, 4))
    x = drawn(200, 1, 4, 4)
    bound, exact = elbo(wrong, x, samples=8), Gaussian().log_prob(x, 0.0)
    # KL(N(0, 0.5^2) || N(0, 0.35^2)) of 16 dimensions is what the model loses, at least.
    kl = 16 * (math.log(0.35 / 0.5) + 0.5 * (0.5 / 0.35) ** 2 - 0.5)
    assert float((exact - bound).mean()) == pytest.approx(kl, abs=1.0)
    assert kl > 2


def test_no_scatter_is_left_where_all_of_it_is_taken_off(monkeypatch):
    """Only how the levels are drawn is left then: a sharp test of every term."""
    monkeypatch.setattr(bound_file, "CONTROL", 1.0)
    x = drawn(4, 1, 4, 4)
    found = elbo(gaussian(), x, samples=256)
    q = x.flatten(1).square().mean(1) / 0.25
    exact = Gaussian().log_prob(x, 0.0) + 8 * (1 - q) * (0.5 / 80) ** 2
    assert ((found - exact).abs() / 16).max() < 1e-3


def test_levels_are_drawn_in_proportion():
    proposal = Proposal(0.002, 80.0, 0.5)
    sigma, density = proposal(torch.linspace(0, 1, 100_001, dtype=torch.float64))
    assert float(sigma[0]) == pytest.approx(0.002) and float(sigma[-1]) == pytest.approx(80.0)
    assert float(torch.trapezoid(density, sigma.log())) == pytest.approx(1, abs=1e-3)
    share = density * (0.25 + sigma**2) / 0.25
    assert torch.allclose(share, share[:1].expand_as(share))
    grow = (density[:-1] * sigma.log().diff() * 100_000)[1000:-1000]
    assert torch.allclose(grow, torch.ones_like(grow), atol=2e-2)


def test_an_image_does_not_depend_on_its_batch():
    x = drawn(3, 1, 4, 4)
    whole = elbo(gaussian(), x, samples=3, seed=2)
    assert torch.allclose(whole, elbo(gaussian(), x, samples=3, seed=2, batch_size=2))
    one = elbo(gaussian(), x[1:2], samples=3, seed=image_seeds(2, 1, start=1))
    assert torch.allclose(whole[1:2], one)
    assert whole.dtype == torch.float64 and len(elbo(gaussian(), x[:0])) == 0


def test_noise_is_not_that_of_a_long_samplers_steps(monkeypatch):
    """Images of the same seeds would meet the noise again that they were made of."""
    numbers = []

    def seen(seeds, step, *rest):
        numbers.append(step)
        return noise_for(seeds, step, *rest)

    monkeypatch.setattr(bound_file, "noise_for", seen)
    monkeypatch.setattr(per_dim, "noise_for", seen)
    elbo(gaussian(), drawn(1, 1, 4, 4), samples=2)
    bits_per_dim(gaussian(), drawn(1, 1, 4, 4), dequantise=None, residual="fixed")
    assert len(set(numbers)) == 4 and min(numbers) > 1 << 59
    assert not torch.equal(*(noise_for([0], number, (4,)) for number in numbers[:2]))


def test_network_calls():
    model = gaussian()
    elbo(model, drawn(3, 1, 4, 4).float(), samples=5)
    assert model.net.rows == 3 * 6


def test_what_is_refused():
    for samples in (0, 1.5, True):
        with pytest.raises(ValueError, match="samples is"):
            elbo(gaussian(), drawn(2, 1, 4, 4), samples=samples)
    with pytest.raises(ValueError, match="has no score"):
        elbo(wrap(Gaussian(), kind="consistency", shape=(1, 4, 4)), drawn(2, 1, 4, 4))
    with pytest.raises(ValueError, match="need \\(batch"):
        elbo(gaussian(), drawn(2, 3, 4, 4))
