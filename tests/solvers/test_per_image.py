"""Solves with a time and a step size per image."""

import math
from itertools import pairwise

import pytest
import torch

from ctm_fast.solvers import SolverError, integrate, slope
from ctm_fast.solvers.per_image import heun_each, integrate_each
from tests.analytic import Gaussian

DATA = Gaussian(0.2, 0.5)


def start(batch=4):
    generator = torch.Generator().manual_seed(0)
    return 80.0 * torch.randn(batch, 2, dtype=torch.float64, generator=generator)


def ode(t, y, rows):
    return (slope(DATA, y[0], t),)


def stiff(t, y, rows):
    """y' = rate cos(rate t): an image is the harder the larger its place."""
    rate = (1.0 + 9.0 * rows.double())[:, None]
    return (rate * torch.cos(rate * t[:, None]),)


@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-9])
def test_error_follows_the_tolerance_in_both_directions(tol):
    for begin, end in ((80.0, 0.002), (0.002, 80.0)):
        x = start() * begin / 80
        y = integrate_each(ode, (x,), begin, end, tol, tol).y[0]
        exact = DATA.jump(x, begin, end)
        assert ((y - exact).abs() / (1 + exact.abs())).max() < 20 * tol


def test_one_image_is_solved_as_by_the_shared_step_size():
    x = start(1)
    each = integrate_each(ode, (x,), 80.0, 0.002)
    shared = integrate(lambda t, y: (slope(DATA, y[0], t),), (x,), 80.0, 0.002)
    assert torch.allclose(each.y[0], shared.y[0], rtol=1e-12, atol=1e-12)
    assert (int(each.nfe), int(each.num_rejected)) == (shared.nfe, shared.num_rejected)


def test_no_image_changes_another():
    zero = torch.zeros(4, 1, dtype=torch.float64)
    whole = integrate_each(stiff, (zero,), 0.0, 2.0, 1e-7, 1e-7)
    for i in range(4):
        alone = integrate_each(lambda t, y, rows, i=i: stiff(t, y, rows + i), (zero[:1],), 0.0, 2.0,
                               1e-7, 1e-7)  # fmt: skip
        assert torch.equal(alone.y[0][0], whole.y[0][i])
        assert int(alone.nfe) == int(whole.nfe[i])
    assert whole.nfe[0] < whole.nfe[1] < whole.nfe[3]
    rates = 1.0 + 9.0 * torch.arange(4).double()
    assert torch.allclose(whole.y[0][:, 0], torch.sin(2 * rates), atol=1e-5)


def test_calls_are_counted_for_every_image():
    calls = torch.zeros(4, dtype=torch.int64)

    def field(t, y, rows):
        calls[rows] += 1
        return stiff(t, y, rows)

    zero = torch.zeros(4, 1, dtype=torch.float64)
    result = integrate_each(field, (zero,), 0.0, 2.0)
    assert torch.equal(result.nfe, calls)
    assert torch.equal(result.nfe, 2 + 6 * (result.num_steps + result.num_rejected))
    assert result.num_rejected.sum() > 0


def test_every_part_of_the_state_is_controlled():
    dims, tol = 50, 1e-8
    x = 0.5 * torch.randn(4, dims, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def field(t, y, rows):
        return slope(DATA, y[0], t), dims / t * (1 - DATA.std**2 / (DATA.std**2 + t**2))

    y = integrate_each(field, (x, torch.zeros(4).double()), 0.002, 80.0, tol, tol).y
    log_p = DATA.log_prob(y[0], 80.0) + y[1]
    assert torch.allclose(log_p, DATA.log_prob(x, 0.002), atol=1e-5)


def test_heun_has_order_two():
    zero = torch.zeros(1, 1, dtype=torch.float64)
    errors = []
    for steps in (40, 80, 160):
        result = heun_each(stiff, (zero,), 0.0, 1.0, steps)
        assert result.nfe.tolist() == [2 * steps]
        errors.append(abs(float(result.y[0]) - math.sin(1.0)))
    assert all(3.8 < a / b < 4.2 for a, b in pairwise(errors)), errors


def test_float32_state_and_nothing_to_do():
    x = start().float()
    end = integrate_each(ode, (x,), 80.0, 0.002, 1e-4, 1e-4).y[0]
    assert end.dtype == torch.float32
    assert torch.allclose(end, DATA.jump(x, 80.0, 0.002), atol=2e-3)
    assert integrate_each(ode, (x,), 2.0, 2.0).nfe.tolist() == [0] * 4
    assert len(integrate_each(ode, (x[:0],), 2.0, 1.0).y[0]) == 0


def test_what_cannot_be_solved_is_a_clear_error():
    with pytest.raises(SolverError, match=r"after 3 steps and should reach 0.002; raise max_steps"):
        integrate_each(ode, (start(),), 80.0, 0.002, max_steps=3)
    with pytest.raises(SolverError, match="not finite"):
        integrate_each(lambda t, y, rows: (y[0] * torch.nan,), (start(),), 80.0, 0.002)


@pytest.mark.parametrize("bad", [{"rtol": -1.0}, {"atol": 0.0}, {"max_steps": 0}])
def test_inadmissible_tolerances(bad):
    with pytest.raises(ValueError, match="rtol >= 0, atol > 0 and max_steps > 0"):
        integrate_each(ode, (start(),), 2.0, 1.0, **bad)
    with pytest.raises(ValueError, match="steps is 0"):
        heun_each(ode, (start(),), 2.0, 1.0, 0)
