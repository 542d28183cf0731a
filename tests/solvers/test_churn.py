"""EDM's churn."""

import math

import pytest
import torch

from ctm_fast.rng import stream
from ctm_fast.sigmas import karras_sigmas
from ctm_fast.solvers import Churn, Heun, solve
from tests.analytic import Gaussian
from tests.fixtures import assert_within, load, sources, tolerance

NEVER = {"noise": lambda i: pytest.fail("noise was drawn")}


def test_published_formula():
    churn = Churn(lambda i: torch.ones(1, 1), num_steps=256)
    x, sigma = churn(0, torch.zeros(1, 1), 2.0)
    assert sigma == pytest.approx(2.0 * (1 + 40 / 256))
    assert x.item() == pytest.approx(math.sqrt(sigma**2 - 4) * 1.003)


def test_growth_is_capped():
    churn = Churn(lambda i: torch.ones(1, 1), num_steps=18)
    assert churn.sigma_hat(1.0) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("sigma", [0.0499, 50.1])
def test_outside_the_range_nothing_is_drawn(sigma):
    x = torch.ones(1, 1)
    assert Churn(num_steps=18, **NEVER)(3, x, sigma) == (x, sigma)


def test_without_churn_it_is_the_plain_solve():
    x, grid = torch.full((2, 3), 40.0), [*karras_sigmas(8).tolist(), 0.0]
    churn = Churn(num_steps=8, S_churn=0.0, **NEVER)
    assert torch.equal(solve(Gaussian(), x, grid, perturb=churn), solve(Gaussian(), x, grid))


@pytest.mark.parametrize("source", sources("edm_heun_sampler"))
def test_recorded_noise_levels(source):
    tensors, meta = load("edm_heun_sampler", source)
    churn = Churn(num_steps=18, **NEVER)
    raised = [churn.sigma_hat(level) for level in tensors["t_steps"][:-1].tolist()]
    name = "churn_t_hat"
    assert_within(torch.tensor(raised, dtype=torch.float64), tensors[name], tolerance(meta, name))


@pytest.mark.parametrize("source", sources("edm_heun_sampler"))
def test_recorded_first_steps(source):
    """Up to the first churned step the recorded network outputs are those of the plain run."""
    tensors, meta = load("edm_heun_sampler", source)
    churn = Churn(tensors["churn_noise"].__getitem__, num_steps=18)
    levels = tensors["t_steps"].tolist()
    first = next(i for i, t in enumerate(levels) if t <= 50)
    assert first > 0
    actual = [churn(i, tensors["x_traj"][i], levels[i])[0] for i in range(first + 1)]
    name = "churn_x_hat"
    expected = tensors[name][: first + 1]
    assert_within(torch.stack(actual), expected, tolerance(meta, name))


def test_samples_of_a_gaussian_keep_its_variance():
    num_steps, batch = 64, 20_000
    grid = [*karras_sigmas(num_steps).tolist(), 0.0]
    draw = dict(dtype=torch.float64)
    x = 80 * torch.randn(batch, 1, generator=stream(0), **draw)
    churn = Churn(
        lambda i: torch.randn(batch, 1, generator=stream(0, i + 1), **draw),
        num_steps,
        S_churn=30.0,
        S_noise=1.0,
    )
    samples = solve(Gaussian(0.0, 0.5), x, grid, Heun(), perturb=churn)
    assert samples.std().item() == pytest.approx(0.5, rel=0.02)
    assert samples.mean().item() == pytest.approx(0.0, abs=0.02)
    plain = solve(Gaussian(0.0, 0.5), x, grid, Heun())
    assert torch.corrcoef(torch.cat([samples, plain], 1).T)[0, 1] < 0.5


@pytest.mark.parametrize("bad", [{"num_steps": 0}, {"S_churn": -1.0}, {"S_min": 3.0, "S_max": 1.0}])
def test_inadmissible_options(bad):
    with pytest.raises(ValueError, match=r"num_steps >= 1, S_churn >= 0 and S_min <= S_max"):
        Churn(**{"num_steps": 18, **NEVER, **bad})
