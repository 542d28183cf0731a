"""Moving along trajectories: the teacher's solve, self-teachers, jumps that stay where they are."""

import pytest
import torch

from ctm_fast.losses import CTM, L2, Models, PseudoHuber, evaluate
from ctm_fast.losses.trajectories import jump_moved
from ctm_fast.rng import stream
from ctm_fast.timesteps import TrajectoryLevels

from .test_ctm import composed, exact, residual
from .tools import constant, drawn


def test_the_teacher_solve_costs_two_calls_per_step_and_identity_jumps_cost_none() -> None:
    levels = TrajectoryLevels(max_steps=5, step_count="fixed", destination="smallest")
    objective = CTM(num_scales=8, distance=PseudoHuber(), levels=levels)
    *_, models = composed(objective)
    assert models.teacher.net.calls == 10
    assert models.target.net.calls == 0


@pytest.mark.parametrize(
    ("mode", "calls"), [("heun_denoiser", (6, 0)), ("jump", (0, 1)), ("iterative_jump", (0, 3))]
)
def test_training_without_a_teacher(mode: str, calls: tuple[int, int]) -> None:
    levels = TrajectoryLevels(max_steps=3, step_count="fixed")
    objective = CTM(num_scales=8, levels=levels, self_teacher=mode)
    assert objective.needs == {"target"}
    models = Models(constant(0.3, True), constant(-0.2, True).requires_grad_(False))
    batch = drawn(objective, torch.randn(16, 1, 4, 4, generator=stream(5)))
    objective.prepare(batch, models)
    student, target = calls
    assert models.student.net.calls == student + 1  # + 1: the jump u -> s
    assert models.target.net.calls == target + 1  # + 1: the jump s -> sigma_min
    objective.loss("ctm", batch, models).mean().backward()
    assert models.student.net.number.grad.isfinite()


@pytest.mark.parametrize("mode", ["heun_denoiser", "jump", "iterative_jump"])
def test_the_exact_solution_is_a_fixed_point_without_a_teacher(mode: str) -> None:
    objective = CTM(num_scales=80, distance=L2(), self_teacher=mode)
    assert residual(objective) < (1e-3 if mode == "heun_denoiser" else 1e-12)


def test_identity_jumps_are_exact() -> None:
    model = exact(True)
    x = torch.randn(6, 1, 4, 4, dtype=torch.float64, generator=stream(1))
    sigma = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype=torch.float64)
    to = torch.tensor([1.0, 1.0, 3.0, 2.0, 5.0, 6.0], dtype=torch.float64)
    moved = jump_moved(model, x, sigma, to, None)
    assert torch.equal(moved[[0, 2, 4, 5]], x[[0, 2, 4, 5]])
    torch.testing.assert_close(moved, model.jump(x, sigma, to), rtol=1e-12, atol=1e-12)


def test_missing_networks_are_named() -> None:
    objective = CTM(num_scales=8)
    batch = drawn(objective, torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match="needs a teacher"):
        evaluate(objective, batch, Models(constant(0.0, True), constant(0.0, True)))
    with pytest.raises(ValueError, match="averaged target"):
        evaluate(objective, batch, Models(constant(0.0, True), None, constant(0.0, False)))
    with pytest.raises(ValueError, match="unknown term 'gan'"):
        objective.loss("gan", batch, Models(constant(0.0, True)))
