"""The loop that all solvers share."""

import pytest
import torch

from ctm_fast.sigmas import karras_sigmas
from ctm_fast.solvers import SOLVERS, Euler, Heun, slope, solve
from tests.analytic import Gaussian

DATA = Gaussian(0.2, 0.5)


def noisy(batch, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 80 * torch.randn(batch, 1, 2, 2, dtype=dtype, generator=generator)


class Counter:
    def __init__(self, denoiser=DATA):
        self.denoiser, self.calls, self.labels = denoiser, [], []

    def __call__(self, x, sigma, labels=None):
        self.calls.append(sigma)
        self.labels.append(labels)
        return self.denoiser(x, sigma)


@pytest.mark.parametrize("name", SOLVERS.names())
def test_every_solver_follows_the_ode(name):
    solver = SOLVERS[name]()
    x = noisy(3)
    end = solve(DATA, x, karras_sigmas(200), solver)
    assert torch.allclose(end, DATA.jump(x, 80.0, 0.002), rtol=0.02, atol=0.02)
    back = solve(DATA, end, karras_sigmas(200).flip(0), solver)
    assert torch.allclose(back, x, rtol=0.05)
    assert solver.order >= 1


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_network_calls(name):
    solver, counter, labels = SOLVERS[name](), Counter(), torch.tensor([1])
    solve(counter, noisy(1), karras_sigmas(18), solver, labels=labels)
    assert len(counter.calls) == 17 * solver.nfe
    assert all(seen is labels for seen in counter.labels)
    counter = Counter()
    solve(counter, noisy(1), [*karras_sigmas(18).tolist(), 0.0], solver)
    assert len(counter.calls) == 17 * solver.nfe + 1
    assert min(counter.calls) > 0


@pytest.mark.parametrize("name", SOLVERS.names())
def test_a_level_per_image_equals_runs_of_one_image(name):
    solver = SOLVERS[name]()
    grid = torch.stack([karras_sigmas(6), karras_sigmas(6, 0.01, 3.0), karras_sigmas(6, 0.1, 9)], 1)
    x = noisy(3)
    together = solve(DATA, x, grid, solver)
    alone = [solve(DATA, x[j : j + 1], grid[:, j], solver) for j in range(3)]
    # The adaptive solver shares its step sizes, so it agrees within its tolerance only.
    tol = 1e-12 if solver.nfe else 1e-3
    assert torch.allclose(together, torch.cat(alone), rtol=tol, atol=tol)


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_last_step_to_zero_returns_the_denoised_images(name):
    x = noisy(2)
    for sigmas in ([3.0, 0.0], torch.tensor([[3.0, 2.0], [0.0, 0.0]])):
        counter = Counter()
        end = solve(counter, x, sigmas, SOLVERS[name]())
        level = sigmas[0]
        assert torch.allclose(end, DATA(x, level), rtol=1e-12) and len(counter.calls) == 1


def test_slope_is_the_ode():
    x, t = noisy(2), torch.tensor([2.0, 5.0])
    expected = (x - DATA(x, t)) / t.reshape(2, 1, 1, 1)
    assert torch.equal(slope(DATA, x, t), expected)
    assert torch.allclose(slope(DATA, x, 2.0)[0], expected[0])


def test_callback_sees_the_first_call_of_each_step():
    seen, x = [], noisy(2)
    sigmas = karras_sigmas(5).tolist()
    end = solve(DATA, x, sigmas, Heun(), callback=seen.append)
    assert [s["i"] for s in seen] == [0, 1, 2, 3]
    assert [s["sigma"] for s in seen] == sigmas[:-1]
    assert [s["sigma_next"] for s in seen] == sigmas[1:]
    for step, after in zip(seen, [*(s["x"] for s in seen[1:]), end], strict=True):
        assert torch.equal(step["denoised"], DATA(step["x"], step["sigma"]))
        assert torch.equal(Heun().step(DATA, step["x"], step["sigma"], step["sigma_next"]), after)


def test_callback_changes_nothing():
    x = noisy(2)
    plain = solve(DATA, x, karras_sigmas(5))
    assert torch.equal(plain, solve(DATA, x, karras_sigmas(5), callback=lambda _: None))


def test_perturb_comes_before_each_step():
    seen, x = [], noisy(2)

    def perturb(i, x, sigma):
        return (x + i, sigma * 1.1) if i else (x, sigma)

    end = solve(DATA, x, [8.0, 4.0, 2.0], Euler(), callback=seen.append, perturb=perturb)
    middle = Euler().step(DATA, x, 8.0, 4.0) + 1
    assert torch.equal(seen[1]["x"], middle) and seen[1]["sigma"] == 4.0 * 1.1
    assert torch.equal(end, Euler().step(DATA, middle, 4.0 * 1.1, 2.0))
    with pytest.raises(ValueError, match="churn needs one noise level per step"):
        solve(DATA, x, torch.ones(2, 2), perturb=perturb)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_keeps_its_dtype(dtype):
    assert solve(DATA, noisy(2, dtype), karras_sigmas(4)).dtype == dtype
    assert solve(DATA, noisy(2, dtype), karras_sigmas(4)[:, None].expand(4, 2)).dtype == dtype


def test_input_is_not_changed():
    x = noisy(2)
    before = x.clone()
    for name in SOLVERS.names():
        solve(DATA, x, karras_sigmas(4), SOLVERS[name]())
    assert torch.equal(x, before)


def test_gradients_flow():
    x = noisy(1).requires_grad_()
    solve(DATA, x, karras_sigmas(4)).sum().backward()
    assert x.grad is not None and bool((x.grad > 0).all())


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([1.0], r"got shape \(1,\)"),
        (1.0, r"got shape \(\)"),
        (torch.ones(3, 5), r"\(steps \+ 1,\) or \(steps \+ 1, 2\).*got shape \(3, 5\)"),
        ([1.0, 0.0, 0.5], r"positive, except for a last 0, got \[1.0, 0.0, 0.5\]"),
        ([1.0, -0.5], "positive"),
        ([float("nan"), 0.5], "positive"),
        ([float("inf"), 0.5], "finite"),
        (torch.tensor([[1.0, 1.0], [0.0, 0.5]]), r"0 for all images or none, got \[0.0, 0.5\]"),
    ],
)
def test_inadmissible_levels(sigmas, message):
    with pytest.raises(ValueError, match=message):
        solve(DATA, noisy(2), sigmas)


def test_half_precision_state_is_refused():
    with pytest.raises(ValueError, match=r"float32 or float64, got torch\.bfloat16"):
        solve(DATA, noisy(2).bfloat16(), [2.0, 1.0])


def test_unknown_solver():
    with pytest.raises(ValueError, match=r"unknown solver 'dpm'; choose from \['dopri5', 'euler'"):
        SOLVERS["dpm"]
