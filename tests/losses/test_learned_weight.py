"""The learned weight: its optimum, its start, its form."""

import pytest
import torch

from ctm_fast.losses.learned_weight import LearnedWeight, weighted
from ctm_fast.rng import stream


def test_it_learns_the_inverse_of_the_mean_loss():
    sigmas = torch.tensor([0.01, 0.1, 1.0, 10.0])
    means = torch.tensor([0.02, 3.0, 0.5, 0.1])
    model = LearnedWeight(32)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 400)
        noise = -torch.rand(64, 4, generator=stream(step)).log()  # of mean 1
        losses = weighted(means * noise, model(sigmas).expand(64, 4))
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    # At the optimum E[e^w l] = 1.
    torch.testing.assert_close(model(sigmas).exp() * means, torch.ones(4), rtol=0.1, atol=0)


def test_at_first_it_changes_nothing():
    losses = torch.rand(5, dtype=torch.float64, generator=stream(0))
    found = weighted(losses, LearnedWeight()(torch.full((5,), 2.0)))
    assert found.dtype == torch.float64
    assert torch.equal(found, losses)


def test_form():
    model = LearnedWeight(64, seed=3)
    assert torch.equal(model.frequencies, LearnedWeight(64, seed=3).frequencies)
    assert not torch.equal(model.frequencies, LearnedWeight(64, seed=4).frequencies)
    with torch.no_grad():
        model.weight.copy_(torch.randn(64, generator=stream(1)))
    sigma = torch.tensor([0.3, 40.0], dtype=torch.float64)
    level = sigma.log().float() / 4
    waves = [(level * f + p).cos() for f, p in zip(model.frequencies, model.phases)]
    expected = sum(v * wave for v, wave in zip(model.weight, waves)) * (2 / 64) ** 0.5
    torch.testing.assert_close(model(sigma), expected + model.bias)
    assert set(model.state_dict()) == {"frequencies", "phases", "weight", "bias"}
    with pytest.raises(ValueError, match="features"):
        LearnedWeight(0)
