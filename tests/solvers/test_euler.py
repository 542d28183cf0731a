"""Euler's method."""

import math
from itertools import pairwise

import pytest
import torch

from ctm_fast.sigmas import karras_sigmas
from ctm_fast.solvers import Euler, solve
from tests.analytic import Gaussian


def relative_error(num_scales):
    """At 0, from x = 80 at sigma = 80; the exact end is 80 * 0.5 / sqrt(80^2 + 0.5^2)."""
    x = torch.full((1, 1), 80.0, dtype=torch.float64)
    end = solve(Gaussian(), x, [*karras_sigmas(num_scales).tolist(), 0.0], Euler()).item()
    return abs(end / (80 * 0.5 / math.hypot(80, 0.5)) - 1)


def test_published_errors():
    golden = {18: 0.154, 40: 0.0703, 80: 0.0353, 160: 0.0177, 320: 0.0089}
    for num_scales, error in golden.items():
        assert relative_error(num_scales) == pytest.approx(error, rel=6e-3)


def test_order_one():
    errors = [relative_error(n) for n in (80, 160, 320)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(0.95 < order < 1.05 for order in orders) and Euler.order == 1


def test_one_step_by_hand():
    x = torch.tensor([[3.0, -1.0]], dtype=torch.float64)
    denoised = Gaussian()(x, 2.0)
    expected = x + (0.5 - 2.0) * (x - denoised) / 2.0
    torch.testing.assert_close(Euler().step(Gaussian(), x, 2.0, 0.5), expected, rtol=1e-15, atol=0)
    assert torch.equal(Euler().step(Gaussian(), x, 2.0, 0.0), denoised)


def test_a_step_down_from_a_huge_level_does_not_cancel():
    x = 1e6 * torch.tensor([[3.0, -1.0]])
    exact = Euler().step(Gaussian(), x.double(), 1e6, 0.5)
    torch.testing.assert_close(
        Euler().step(Gaussian(), x, 1e6, 0.5), exact.float(), rtol=1e-6, atol=0
    )
