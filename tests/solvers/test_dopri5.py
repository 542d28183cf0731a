"""Dormand and Prince's adaptive method."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from ctm_fast.solvers import Dopri5, SolverError, integrate, slope, solve
from ctm_fast.solvers.dopri5 import ERROR, NODES, STAGES, dopri5_step
from tests.analytic import Gaussian, Mixture
from tests.fixtures import load, sources

DATA = Gaussian(0.2, 0.5)


def start(batch=3, level=80.0):
    generator = torch.Generator().manual_seed(0)
    return level * torch.randn(batch, 2, dtype=torch.float64, generator=generator)


def ode(sigma, y):
    return (slope(DATA, y[0], sigma),)


def fixed_steps(num_steps):
    """Error at t = 5 of y' = y cos t, whose solution is exp(sin t)."""

    def field(t, y):
        return (y[0] * math.cos(t),)

    y, h = (torch.ones(1, 1, dtype=torch.float64),), 5.0 / num_steps
    k = field(0.0, y)
    for i in range(num_steps):
        y, k, _ = dopri5_step(field, i * h, y, h, k)
    return abs(y[0].item() - math.exp(math.sin(5.0)))


def test_measured_order_is_five():
    errors = [fixed_steps(n) for n in (40, 80, 160)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(4.6 < order < 5.6 for order in orders), orders
    assert Dopri5.order == 5 and Dopri5.nfe is None


def test_error_estimate_is_of_order_four_and_not_smaller_than_the_error():
    x = start(1, 3.0)
    for h in (-0.4, -0.2):
        y, _, error = dopri5_step(ode, 3.0, (x,), h, ode(3.0, (x,)))
        true = (y[0] - DATA.jump(x, 3.0, 3.0 + h)).abs().max()
        assert true < error[0].abs().max() < 1e3 * true
    one, two = (
        dopri5_step(ode, 3.0, (x,), h, ode(3.0, (x,)))[2][0].abs().max() for h in (-0.4, -0.2)
    )
    assert 4.5 < math.log2(one / two) < 5.8


def test_tableau_is_consistent():
    for node, weights in zip(NODES, STAGES, strict=True):
        assert sum(weights) == pytest.approx(node, abs=1e-14)
    assert sum(ERROR) == pytest.approx(0, abs=1e-16)
    for power in range(1, 5):
        moment = sum(w * c**power for w, c in zip(STAGES[-1], NODES[:-1], strict=True))
        assert moment == pytest.approx(1 / (power + 1), abs=1e-14)


@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-9])
def test_error_follows_the_tolerance(tol):
    x = start()
    for begin, end in ((80.0, 0.002), (0.002, 80.0)):
        begin_x = x * begin / 80
        result = integrate(ode, (begin_x,), begin, end, rtol=tol, atol=tol)
        exact = DATA.jump(begin_x, begin, end)
        assert ((result.y[0] - exact).abs() / (1 + exact.abs())).max() < 20 * tol
        assert result.nfe == 2 + 6 * (result.num_steps + result.num_rejected)


def test_a_tighter_tolerance_costs_more():
    counts = [integrate(ode, (start(),), 80.0, 0.002, tol, tol).nfe for tol in (1e-3, 1e-6, 1e-9)]
    assert counts[0] < counts[1] < counts[2] < 3000


def test_calls_are_counted():
    calls = []

    def field(t, y):
        calls.append(t)
        return ode(t, y)

    result = integrate(field, (start(),), 80.0, 0.002)
    assert len(calls) == result.nfe
    assert min(calls) == pytest.approx(0.002, rel=1e-9) and max(calls) == 80.0
    assert integrate(field, (start(),), 2.0, 2.0).nfe == 0


def test_every_part_of_the_state_is_controlled():
    """The likelihood's second part: d log p/d sigma = -div f, in a state of many dimensions."""
    dims, tol = 50, 1e-8
    generator = torch.Generator().manual_seed(1)
    x = 0.5 * torch.randn(4, dims, dtype=torch.float64, generator=generator)

    def field(t, y):
        divergence = dims / t * (1 - DATA.std**2 / (DATA.std**2 + t**2))
        return slope(DATA, y[0], t), torch.full_like(y[1], divergence)

    y = integrate(field, (x, torch.zeros(4).double()), 0.002, 80.0, tol, tol).y
    log_p = DATA.log_prob(y[0], 80.0) + y[1]
    assert torch.allclose(log_p, DATA.log_prob(x, 0.002), atol=1e-5)


def test_a_hard_image_does_not_hide_in_an_easy_batch():
    """The step size answers to the worst image, not to the mean over the batch."""

    def field(t, y):
        rate = torch.tensor([[30.0]] + [[0.0]] * 999, dtype=torch.float64)
        return (rate * torch.cos(30 * torch.tensor(t)),)

    y = integrate(field, (torch.zeros(1000, 1).double(),), 0.0, 2.0, 1e-7, 1e-7).y[0]
    assert y[0].item() == pytest.approx(math.sin(60.0), abs=1e-5)


@pytest.mark.parametrize("source", sources("analytic_gmm2d"))
def test_recorded_mixture_trajectories(source):
    tensors, _ = load("analytic_gmm2d", source)
    data = Mixture(tensors["weights"], tensors["means"], tensors["stds"])
    solver = Dopri5(1e-9, 1e-9, 10_000)
    for x, t, s, expected in zip(*(tensors[k] for k in ("x_t", "t", "s", "x_s")), strict=True):
        end = solve(data, x, [float(t), float(s)], solver)
        assert (end - expected).abs().max() < 1e-6


def test_float32_state():
    x = start().float()
    end = solve(DATA, x, [80.0, 0.002], Dopri5(1e-4, 1e-4))
    assert end.dtype == torch.float32
    assert torch.allclose(end, DATA.jump(x, 80.0, 0.002), atol=2e-3)


def test_too_few_steps_is_a_clear_error():
    with pytest.raises(SolverError, match=r"after 3 steps and should reach 1; raise max_steps"):
        solve(DATA, start(), [80.0, 0.002], Dopri5(1e-8, 1e-8, max_steps=3))


def test_a_slope_that_is_not_finite_is_a_clear_error():
    def broken(x, sigma, labels=None):
        return torch.where(torch.as_tensor(sigma) < 1, torch.nan, DATA(x, sigma))

    with pytest.raises(SolverError, match="not finite"):
        solve(broken, start(), [80.0, 0.002], Dopri5())


def test_zero_is_refused():
    with pytest.raises(ValueError, match="cannot step to sigma=0"):
        solve(DATA, start(), [1.0, 0.0], Dopri5())


@pytest.mark.parametrize("bad", [{"rtol": -1.0}, {"atol": 0.0}, {"max_steps": 0}])
def test_inadmissible_tolerances(bad):
    with pytest.raises(ValueError, match="rtol >= 0, atol > 0 and max_steps > 0"):
        solve(DATA, start(), [2.0, 1.0], replace(Dopri5(), **bad))
