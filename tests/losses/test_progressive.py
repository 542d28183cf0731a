"""Progressive distillation: one step of the student lands where two of the teacher do."""

import pytest
import torch

from ctm_fast.denoiser import Denoiser
from ctm_fast.losses import PD, Batch, Models, evaluate
from ctm_fast.precond import EDM, Preconditioning
from ctm_fast.rng import stream
from ctm_fast.sigmas import karras_sigmas
from ctm_fast.solvers import Euler, solve
from tests.analytic import ConstantNet

from .oracle import STD, Curve, draws, exact_teacher
from .tools import drawn

TEACHER = exact_teacher()


def prepared(objective: PD, size: int = 64) -> tuple[Batch, torch.Tensor]:
    batch = drawn(objective, draws(size))
    models = Models(TEACHER, None, TEACHER)
    objective.prepare(batch, models)
    return batch, objective.compared(batch, models, 0.0)[1]["pixels"]


@pytest.mark.parametrize("steps", [1, 4, 16])
def test_levels_are_every_other_one_of_the_teachers_grid(steps: int) -> None:
    objective = PD(steps=steps)
    torch.testing.assert_close(objective.grid()[::2], karras_sigmas(steps + 1))
    batch, _ = prepared(objective, 200)
    index = torch.searchsorted(-objective.grid(), -batch.draw["t"])
    assert set(index.tolist()) == set(range(0, 2 * steps, 2))
    torch.testing.assert_close(batch.draw["r"], objective.grid()[index + 2])


@pytest.mark.parametrize("steps", [1, 4, 1024])
def test_a_step_from_the_target_lands_on_two_steps_of_the_teacher(steps: int) -> None:
    objective = PD(steps=steps)
    batch, target = prepared(objective)
    index = torch.searchsorted(-objective.grid(), -batch.draw["t"])
    for row in range(len(batch)):
        levels = objective.grid()[index[row] : index[row] + 3]
        x_t = batch.draw["x_t"][row : row + 1]
        expected = solve(TEACHER, x_t, levels, Euler())
        torch.testing.assert_close(batch.draw["x_r"][row : row + 1], expected)
        landed = Euler().step(
            lambda x, sigma, labels, row=row: target[row : row + 1],
            x_t, float(levels[0]), float(levels[2]),
        )  # fmt: skip
        torch.testing.assert_close(landed, expected, rtol=1e-6, atol=1e-6)


def test_target_keeps_its_digits_in_float32() -> None:
    objective = PD(steps=512)
    images = draws(64)
    batch = drawn(objective, images.float())
    exact = Batch(batch.images.double(), None, dict(batch.draw))
    models = Models(TEACHER, None, TEACHER)
    found = []
    for one in (batch, exact):
        objective.prepare(one, models)
        found.append(objective.compared(one, models, 0.0)[1]["pixels"])
    assert found[0].dtype == torch.float32
    # x_t itself is rounded, by 4e-6 at most.
    assert float((found[0] - found[1]).abs().max()) < 1e-4


def test_loss_by_hand_and_gradient() -> None:
    objective = PD(steps=4)
    student = Denoiser(ConstantNet(0.3))
    batch = drawn(objective, torch.randn(6, 1, 4, 4, generator=stream(3)))
    teacher = Denoiser(ConstantNet(-0.2)).requires_grad_(False)
    models = Models(student, None, teacher)
    loss = evaluate(objective, batch, models)["consistency"]
    t, x_t = batch.draw["t"], batch.draw["x_t"]
    target = objective.compared(batch, models, 0.0)[1]["pixels"]
    error = ((student(x_t, t) - target) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(loss, (t**-2).clamp(min=1).float() * error)
    loss.sum().backward()
    assert student.net.number.grad.abs() > 0


def test_short_training_halves_the_steps() -> None:
    objective, size = PD(steps=2), 256
    student = Denoiser(Curve(), Preconditioning(EDM(STD)))
    models = Models(student, None, TEACHER)
    optimizer = torch.optim.Adam(student.parameters(), 1e-2)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 300)
        draw = objective.draw(size, (1, 1, 1), stream(1, step))
        batch = Batch(draws(size, step).float(), None, draw)
        optimizer.zero_grad()
        evaluate(objective, batch, models)["consistency"].mean().backward()
        optimizer.step()
    x = 80 * torch.randn(500, 1, 1, 1, generator=stream(2), dtype=torch.float64)
    with torch.no_grad():
        ours = solve(student, x, karras_sigmas(3), Euler())
        theirs = solve(TEACHER, x, karras_sigmas(5), Euler())
        undistilled = solve(TEACHER, x, karras_sigmas(3), Euler())
    error = float((ours - theirs).square().mean().sqrt())
    assert error < 0.4 * float((undistilled - theirs).square().mean().sqrt())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"weighting": "nope"}, "weighting 'nope'"),
        ({"sigma_min": 100.0}, "sigma_min=100.0"),
    ],
)
def test_bad_options_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PD(**fields)


def test_it_needs_a_teacher() -> None:
    batch = drawn(PD(), draws(2))
    with pytest.raises(ValueError, match="progressive distillation needs a teacher"):
        PD().prepare(batch, Models(TEACHER))
