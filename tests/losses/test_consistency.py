"""Base of the consistency objectives: points, target, weight, what r = 0 means."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from ctm_fast.denoiser import Denoiser
from ctm_fast.losses import L2, Batch, Consistency, Models, Objective, evaluate
from ctm_fast.losses.consistency import GridConsistency
from ctm_fast.rng import stream
from tests.analytic import ConstantNet

from .oracle import DATA, LOW, denoised, draws, exact_student, moved, slope, variance
from .tools import drawn


@dataclass(frozen=True)
class Fixed(Consistency):
    """Given levels."""

    t: Any = 1.0
    r: Any = 0.5

    def levels(self, batch_size, generator, progress):
        values = (torch.as_tensor(level, dtype=torch.float64) for level in (self.t, self.r))
        return tuple(value.expand(batch_size).clone() for value in values)


def model(number: float = 0.3, kind: str = "consistency") -> Denoiser:
    return Denoiser(ConstantNet(number), kind=kind)


def test_loss_by_hand() -> None:
    objective, student = Fixed(L2(), t=1.5, r=0.5), model()
    batch = drawn(objective, torch.randn(5, 1, 4, 4, generator=stream(1)))
    noise = batch.draw["noise"]
    assert isinstance(objective, Objective)
    losses = evaluate(objective, batch, Models(student))
    f_t = student(batch.images + 1.5 * noise, 1.5)
    f_r = student(batch.images + 0.5 * noise, 0.5)
    torch.testing.assert_close(losses["consistency"], ((f_t - f_r) ** 2).mean((1, 2, 3)) / 1.0)
    with pytest.raises(ValueError, match="unknown term 'dsm'"):
        objective.loss("dsm", batch, Models(student))


def test_gradient_passes_through_the_estimate_only() -> None:
    objective, student = Fixed(L2(), t=1.5, r=0.5), model()
    batch = drawn(objective, torch.randn(5, 1, 4, 4, generator=stream(1)))
    evaluate(objective, batch, Models(student))["consistency"].sum().backward()
    noise = batch.draw["noise"]
    f_t = student(batch.images + 1.5 * noise, 1.5)
    f_r = student(batch.images + 0.5 * noise, 0.5).detach()
    expected = torch.autograd.grad(((f_t - f_r) ** 2).mean((1, 2, 3)).sum(), student.net.number)
    torch.testing.assert_close(student.net.number.grad, expected[0])


def test_rows_with_r_0_have_the_image_as_target_bit_by_bit() -> None:
    r = torch.tensor([0.0, 0.25, 0.0, 0.5])
    objective, student = Fixed(t=1.0, r=r), model()
    batch = drawn(objective, torch.randn(4, 1, 4, 4, generator=stream(2)))
    objective.prepare(batch, Models(student))
    estimate, targets = objective.compared(batch, Models(student), 0.0)
    target = targets["pixels"]
    assert torch.equal(target[r == 0], batch.images[r == 0])
    assert not torch.isclose(target[r > 0], batch.images[r > 0]).any()
    assert target.isfinite().all() and not target.requires_grad and estimate.requires_grad
    assert torch.equal(batch.draw["x_r"][r == 0], batch.images[r == 0])


def test_weights_of_close_levels_have_the_digits_of_float64() -> None:
    t = 80.0
    objective = Fixed(t=t, r=t - 1e-5)
    batch = drawn(objective, torch.zeros(3, 1, 4, 4))
    objective.prepare(batch, Models(model()))
    assert batch.draw["weight"].dtype == torch.float32
    torch.testing.assert_close(batch.draw["weight"], torch.full((3,), 1e5), rtol=1e-6, atol=0)


def test_float64_images_are_compared_in_float64() -> None:
    objective = Fixed()
    batch = drawn(objective, torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=stream(3)))
    losses = evaluate(objective, batch, Models(model().double()))
    assert losses["consistency"].dtype == torch.float64


def test_loss_of_the_exact_map_is_the_variance_of_a_single_sample() -> None:
    # To first order in t - r: ((t - r) / t)^2 f'(x)^2 Var(x0 | x_t).
    t, r, size = 0.6, 0.6 * (1 - 1e-5), 20_000
    objective = Fixed(L2(), t=t, r=r)
    batch = drawn(objective, draws(size))
    loss = evaluate(objective, batch, Models(exact_student()))["consistency"].detach() * (t - r)
    x_t, level = batch.draw["x_t"], torch.full((size,), t, dtype=torch.float64)
    expected = ((t - r) / t) ** 2 * slope(x_t, level) ** 2 * variance(x_t, level)
    # Between the two modes the map is so steep that few rows would decide the mean.
    rows = slope(x_t, level) < 3
    assert rows.sum() > size / 2
    assert float(loss[rows].mean()) == pytest.approx(float(expected[rows].mean()), rel=0.04)


def test_oracle_is_the_map_of_the_golden_numbers() -> None:
    golden = [
        (-0.5, 0.5, 0.002, -0.817428),
        (0.2, 0.5, 0.002, 0.417356),
        (1.5, 1.0, 0.002, 0.815662),
        (-40.0, 80.0, 0.002, 0.031239),
        (10.0, 80.0, 0.002, 0.507649),
        (10.0, 80.0, 0.821, 0.336354),
        (0.2, 1.0, 0.5, 0.308725),
    ]
    for x, t, s, expected in golden:
        found = moved(torch.tensor(x, dtype=torch.float64).reshape(1, 1, 1, 1), t, s)
        assert float(found) == pytest.approx(expected, abs=1e-6)


def test_oracle_slope_and_variance() -> None:
    x = torch.tensor([-0.6, 0.2, 1.1], dtype=torch.float64).reshape(-1, 1, 1, 1)
    t = torch.full((3,), 0.6, dtype=torch.float64)
    by_difference = (moved(x + 1e-5, t) - moved(x - 1e-5, t)).flatten() / 2e-5
    torch.testing.assert_close(slope(x, t), by_difference, rtol=1e-5, atol=1e-7)
    # Tweedie: Var(x0 | x) = t^2 dD/dx.
    by_difference = 0.36 * (denoised(x + 1e-5, t) - denoised(x - 1e-5, t)).flatten() / 2e-5
    torch.testing.assert_close(variance(x, t), by_difference, rtol=1e-5, atol=1e-7)
    images = draws(40_000).flatten()
    assert float(images.mean()) == pytest.approx(float(DATA.weights @ DATA.means[:, 0]), abs=0.01)


def test_student_of_another_kind_is_refused() -> None:
    batch = drawn(Fixed(), torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match="Fixed trains a student of kind 'consistency', got kind"):
        Fixed().prepare(batch, Models(model(kind="denoiser")))


def test_grid_outside_the_range_of_the_student_is_refused() -> None:
    student = Denoiser(ConstantNet(), kind="consistency", sigma_min=0.01, sigma_max=50.0)
    for options in ({"sigma_min": LOW, "sigma_max": 50.0}, {"sigma_min": 0.01, "sigma_max": 60.0}):
        with pytest.raises(ValueError, match=r"the student knows \[0.01, 50.0\]"):
            GridConsistency(**options).prepare(Batch(torch.zeros(1, 1, 4, 4)), Models(student))
    with pytest.raises(ValueError, match="sigma_min=3"):
        GridConsistency(sigma_min=3.0, sigma_max=2.0)


def test_base_has_no_levels() -> None:
    with pytest.raises(NotImplementedError):
        Consistency().draw(2, (1, 4, 4), stream(0))
