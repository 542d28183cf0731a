"""The two-step method: order two, one network call per step, better than Heun per call."""

import math
from itertools import pairwise

import pytest
import torch

from ctm_fast.denoiser import Denoiser
from ctm_fast.precond import EDM, OUTER, Preconditioning
from ctm_fast.rng import stream
from ctm_fast.sigmas import karras_sigmas
from ctm_fast.solvers import HeunTable
from ctm_fast.solvers.grid_solve import GridSolve
from ctm_fast.solvers.heun import trapezoid
from ctm_fast.solvers.multistep import MultistepTable
from tests.analytic import Mixture
from tests.solvers.curved_net import CurvedNet

GRID = karras_sigmas(18)
DATA = Mixture(
    torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64),
    torch.tensor([[-1.0], [0.3], [0.9]], dtype=torch.float64),
    torch.tensor([0.1, 0.2, 0.05], dtype=torch.float64),
)


class Exact:
    """The mixture's denoiser as a network between scalings; counts its evaluations."""

    def __init__(self):
        self.precond, self.rows = Preconditioning(EDM()), 0

    def raw(self, scaled, c_noise, c_noise_to, labels):
        self.rows += len(scaled)
        t = (4 * c_noise).exp()[:, None]
        x = scaled * (t**2 + 0.25).sqrt()
        P, Q = (values[:, None] for values in self.precond.denoise_coefficients(t[:, 0]))
        return (DATA(x, t[:, 0]) - P * x) / Q


def plainly(denoise, x, sigmas):
    """The same method, image by image and formula by formula."""
    before = None
    for i, (t, u) in enumerate(pairwise(sigmas)):
        D = denoise(x, t)
        if i == 0:
            x = trapezoid(denoise, x, t, u)
        else:
            # dx/ds = (x - D - (s - t) slope) / s with the slope of the line through both D.
            slope = (D - before) / (t - sigmas[i - 1])
            x = u / t * x + (1 - u / t) * D - slope * (t - u + u * math.log(u / t))
        before = D
    return x


def end(table, num_scales, x):
    model, grid = Exact(), karras_sigmas(num_scales)
    start, steps = torch.zeros(len(x), dtype=torch.int64), torch.full((1, len(x)), num_scales - 1)
    result = GridSolve(model, table(model.precond, grid, x.dtype))(x, start, steps)[0]
    return result, model.rows / len(x)


@pytest.fixture(scope="module")
def noise():
    # Evenly spaced quantiles: as good as many more random numbers.
    quantiles = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    x = 80 * torch.special.ndtri(quantiles)[:, None]
    return x, DATA.jump(x, 80.0, 0.002)


def error(table, num_scales, noise):
    result, calls = end(table, num_scales, noise[0])
    return float((result - noise[1]).abs().mean()), calls


def test_order_two(noise):
    errors = [error(MultistepTable, n + 1, noise)[0] for n in (64, 128, 256)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders == pytest.approx([2, 2], abs=0.2), orders


@pytest.mark.parametrize("num_scales", [18, 40, 80])
def test_half_of_heuns_calls_on_the_same_grid_and_about_its_error(noise, num_scales):
    ours, calls = error(MultistepTable, num_scales, noise)
    heun, heun_calls = error(HeunTable, num_scales, noise)
    assert calls == num_scales and heun_calls == 2 * (num_scales - 1)
    assert ours < 1.5 * heun


@pytest.mark.parametrize("num_scales", [18, 40, 80])
def test_less_than_half_of_heuns_error_for_as_many_calls(noise, num_scales):
    ours, calls = error(MultistepTable, num_scales, noise)
    heun, heun_calls = error(HeunTable, num_scales // 2 + 1, noise)
    assert calls == heun_calls and ours < heun / 2.3


@pytest.mark.parametrize("slots", [None, 3])
@pytest.mark.parametrize("outer", OUTER.names())
def test_every_image_has_its_own_steps(outer, slots):
    start, steps = torch.tensor([0, 3, 5, 9, 2, 16]), torch.tensor([3, 1, 0, 4, 7, 1])
    x = torch.randn(6, 2, 4, 4, dtype=torch.float64, generator=stream(1))
    x = x * GRID[start, None, None, None]
    model = Denoiser(CurvedNet(), Preconditioning(EDM(), OUTER[outer](), "quarter_log"))
    labels = torch.arange(6) % 3
    solve = GridSolve(model, MultistepTable(model.precond, GRID, x.dtype), slots=slots)
    asked = torch.stack([steps, steps // 2])
    result = solve(x, start, asked, labels, keep=True)
    assert model.net.rows == int((steps + (steps > 0)).sum())
    for counts, states in zip(asked, result, strict=True):
        for j, (i, n) in enumerate(zip(start.tolist(), counts.tolist(), strict=True)):
            row = slice(j, j + 1)
            with torch.no_grad():
                plain = plainly(
                    lambda y, t, *_, row=row: model(y, float(t), labels[row]),
                    x[row],
                    GRID[i : i + n + 1].tolist(),
                )
            assert torch.allclose(states[row], plain, rtol=1e-11, atol=1e-11)
    assert torch.equal(result[0, 2], x[2])
    assert torch.equal(solve(x, start, steps[None], labels)[0], result[0])


def test_one_step_is_heuns():
    x = torch.randn(4, 2, 4, 4, dtype=torch.float64, generator=stream(2))
    model, start = Denoiser(CurvedNet()), torch.tensor([0, 5, 9, 16])
    one = torch.ones(1, 4, dtype=torch.int64)
    both = [
        GridSolve(model, table(model.precond, GRID, x.dtype))(x, start, one)[0]
        for table in (HeunTable, MultistepTable)
    ]
    assert torch.allclose(*both, rtol=1e-12, atol=1e-12)


def test_float32_state_around_a_half_precision_network():
    start, steps = torch.tensor([0, 3, 5, 9]), torch.tensor([[3, 1, 0, 4]])
    x = torch.randn(4, 2, 4, 4, generator=stream(3)) * GRID[start, None, None, None].float()
    solves = {}
    for dtype in (torch.bfloat16, torch.float64):
        state = x.double() if dtype == torch.float64 else x
        model = Denoiser(CurvedNet(dtype=dtype))
        table = MultistepTable(model.precond, GRID, state.dtype)
        solves[dtype] = GridSolve(model, table)(state, start, steps)[0]
        assert solves[dtype].dtype == state.dtype
    rounded, exact = solves[torch.bfloat16], solves[torch.float64]
    assert ((rounded - exact).abs() / (1 + exact.abs())).max() < 100 * 2**-8


def test_idle_slots_do_not_move():
    table = MultistepTable(Preconditioning(), GRID)
    at = {name: values.item() for name, values in table.at(torch.tensor([table.idle])).items()}
    assert (at["A"], at["B"], at["C"]) == (1, 0, 0) and at["c_in"] == at["c_in_to"]


def test_a_solve_that_failed_leaves_nothing_behind():
    model, start = Denoiser(CurvedNet()), torch.tensor([0, 5, 9])
    steps = torch.tensor([[3, 2, 4]])
    solve = GridSolve(model, MultistepTable(model.precond, GRID, torch.float64), slots=2)
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=stream(4))
    expected = solve(x, start, steps)
    assert solve(x * torch.nan, start, steps).isnan().all()
    assert torch.equal(solve(x, start, steps), expected)
