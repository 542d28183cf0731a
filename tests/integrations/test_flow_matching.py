"""Door of flow_matching against golden outputs, closed forms and its contract."""

import copy
import pickle
from itertools import pairwise

import pytest
import torch

from ctm_fast.integrations.flow_matching import METHODS, FlowSolver, checked_times, step_times

from .tiny_hosts import TinyVelocity, golden, pattern

GRID = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
LABEL = torch.tensor([1, 2])


def start(dtype=torch.float64):
    return pattern(2, 1, 4, 4, dtype=dtype)


@pytest.mark.parametrize("method", METHODS)
def test_the_hosts_own_methods(method):
    path = FlowSolver(TinyVelocity()).sample(
        x_init=start(),
        step_size=0.3,
        method=method,
        time_grid=GRID,
        return_intermediates=True,
        label=LABEL,
    )
    torch.testing.assert_close(path, golden(f"flow_{method}"), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method, order", list(zip(METHODS, (1, 2, 2, 3, 4), strict=True)))
def test_order(method, order):
    def velocity(x, t):
        return x * torch.cos(t)

    x, errors = start(), []
    for step in (1 / 16, 1 / 32):
        end = FlowSolver(velocity).sample(x, step, method, time_grid=[0, 1])
        exact = x * torch.exp(torch.sin(torch.tensor(1.0).double()))
        errors.append(float((end - exact).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.25)


@pytest.mark.parametrize("grid", [(0.0, 0.25, 1.0), (1.0, 0.5, 0.0)])
def test_the_grid_alone_without_a_step_size(grid):
    model, x = TinyVelocity(), start()
    path = FlowSolver(model).sample(x, time_grid=torch.tensor(grid), return_intermediates=True)
    model.eval()
    with torch.no_grad():
        for i, (t, t_next) in enumerate(pairwise(grid)):
            torch.testing.assert_close(path[i], x)
            x = x + (t_next - t) * model(x=x, t=torch.tensor(t).double())
    torch.testing.assert_close(path[-1], x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_hosts_of_every_dtype(dtype):
    options = dict(step_size=0.25, method="midpoint", label=LABEL)
    exact = FlowSolver(TinyVelocity()).sample(start(), **options)
    images = FlowSolver(TinyVelocity(dtype)).sample(start(dtype), **options)
    assert images.dtype == dtype
    tolerance = {torch.float64: 0, torch.float32: 1e-5, torch.float16: 1e-2}[dtype]
    torch.testing.assert_close(images.double(), exact, rtol=tolerance, atol=tolerance)


def test_average_velocities_jump_along_the_grid():
    def average(x, t, r, label=None):
        assert t.ndim == r.ndim == 0 and float(t) < float(r)
        return (torch.exp(r - t) - 1) / (r - t) * x  # of dx/dt = x

    solver = FlowSolver(average, kind="average_velocity")
    for grid in ((0.0, 1.0), (0.0, 0.3, 1.0)):
        end = solver.sample(start(), time_grid=torch.tensor(grid, dtype=torch.float64))
        torch.testing.assert_close(end, start() * torch.e)
    end = FlowSolver(TinyVelocity(), kind="average_velocity").sample(start(), label=LABEL)
    assert end.shape == start().shape


def test_modes_gradients_and_randomness():
    model, before = TinyVelocity().train(), torch.get_rng_state()
    model.inner.eval()
    images = FlowSolver(model).sample(start(), 0.5, label=LABEL)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training and not model.inner.training and not images.requires_grad
    kept = FlowSolver(model).sample(start(), 0.5, enable_grad=True, label=LABEL)
    assert kept.requires_grad and torch.equal(kept, images)


def test_batch_split():
    solver, x = FlowSolver(TinyVelocity()), start()
    whole = solver.sample(x, 0.25, "rk4", label=LABEL)
    rows = [solver.sample(x[i : i + 1], 0.25, "rk4", label=LABEL[i : i + 1]) for i in (0, 1)]
    torch.testing.assert_close(whole, torch.cat(rows))


def test_steps():
    assert step_times([0.0, 1.0], 0.5) == [0.0, 0.5, 1.0]
    assert step_times([0.0, 1.0], 0.1)[-2:] == [pytest.approx(0.9), 1.0]
    assert len(step_times([0.0, 1.0], 0.1)) == 11
    assert step_times([1.0, 0.0], 0.4) == [1.0, 0.6, pytest.approx(0.2), 0.0]
    assert step_times([0.0, 1.0], 5.0) == [0.0, 1.0]
    assert checked_times(GRID) == [0.0, 0.4, 1.0]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(method="dopri5"), "unknown method 'dopri5'"),
        (dict(step_size=-1.0), "step_size is -1.0"),
        (dict(time_grid=[0.0]), "at least two"),
        (dict(time_grid=[0.0, 1.0, 0.5]), "strictly ascending"),
        (dict(time_grid=[0.0, 0.0, 1.0]), "strictly ascending"),
        (dict(atol=1e-3), "does not take atol=0.001"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        FlowSolver(TinyVelocity()).sample(start(), **options)


def test_more_errors():
    with pytest.raises(ValueError, match=r"'midpoint'; choose from \('euler',\)"):
        FlowSolver(TinyVelocity(), "average_velocity").sample(start(), method="midpoint")
    with pytest.raises(ValueError, match="unknown kind"):
        FlowSolver(TinyVelocity(), kind="denoiser")
    with pytest.raises(TypeError, match="steps"):
        FlowSolver(TinyVelocity()).sample(start(), steps=3)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies(again):
    solver = FlowSolver(TinyVelocity())
    options = dict(step_size=0.5, label=LABEL)
    assert torch.equal(again(solver).sample(start(), **options), solver.sample(start(), **options))
