"""Moving along trajectories: the teacher's solve, self-teachers, jumps that stay where they are."""

import gc

import pytest
import torch
from torch import Tensor

from ctm_fast.losses import CTM, L2, Models, PseudoHuber, evaluate
from ctm_fast.losses.trajectories import SELF_TEACHERS, _solves, forget_solves, solve_with_teacher
from ctm_fast.rng import stream
from ctm_fast.sigmas import karras_sigmas
from ctm_fast.timesteps import TrajectoryLevels

from .test_ctm import composed, exact, residual
from .tools import constant, drawn

GRID = karras_sigmas(8).float()


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


def solved(models: Models, seed: int = 0, **options: object) -> Tensor:
    generator = stream(seed)
    start = torch.randint(3, (5,), generator=generator)
    x = torch.randn(5, 1, 4, 4, generator=generator)
    return solve_with_teacher(models, x, GRID, start, start + 1, None, **options)


def test_what_the_solve_keeps_lives_as_long_as_the_models() -> None:
    teacher = constant(0.3, False)
    models = Models(constant(0.0, True), None, teacher)
    first = solved(models)
    (kept,) = _solves[models].values()
    assert torch.equal(solved(models), first) and len(_solves[models]) == 1
    same = Models(models.student, None, teacher)
    solved(same)
    assert list(_solves[same].values()) == [kept]
    assert torch.equal(solved(models, slots=2), first) and len(_solves[models]) == 2
    gc.collect()  # what other tests have left
    before = len(_solves)
    del models, same
    gc.collect()
    assert len(_solves) == before - 1


def test_what_the_solve_keeps_can_be_let_go() -> None:
    models = Models(constant(0.0, True), None, constant(0.3, False))
    first = solved(models)
    assert models in _solves
    forget_solves(models)
    assert models not in _solves
    assert torch.equal(solved(models), first)


def test_other_solvers_and_callables() -> None:
    teacher = exact(False)
    models = Models(teacher, None, teacher)
    before = teacher.net.rows
    solved(models, solver="multistep")
    two_step = teacher.net.rows - before
    solved(models)
    assert teacher.net.rows - before - two_step == 2 * (two_step - 5)

    def half(x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        return x / 2

    plain = Models(teacher, None, half)  # type: ignore[arg-type]
    assert solved(plain).shape == (5, 1, 4, 4) and plain not in _solves


@pytest.mark.parametrize("name", ["teacher", *SELF_TEACHERS])
def test_grid_indices_on_the_cpu_are_enough(name: str) -> None:
    """Tensors on the meta device have no values: looking at one is an error."""
    networks = [constant(0.3, destination).to("meta") for destination in (True, True, False)]
    solve = SELF_TEACHERS.get(name, solve_with_teacher)
    start, steps = torch.tensor([0, 3, 1]), torch.tensor([2, 1, 0])
    for n in (steps, 2):
        x = torch.empty(3, 1, 4, 4, device="meta")
        assert solve(Models(*networks), x, GRID, start, n, None).is_meta


@pytest.mark.parametrize("name", ["jump", "iterative_jump"])
def test_jumps_of_images_with_their_own_steps(name: str) -> None:
    model = exact(True)
    models = Models(model, model)
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=stream(1))
    start, steps = torch.tensor([0, 3, 1]), torch.tensor([2, 1, 0])
    grid = GRID.double()
    moved = SELF_TEACHERS[name](models, x, grid, start, steps, None)
    expected = model.net.data.jump(x, grid[start], grid[start + steps])
    torch.testing.assert_close(moved, expected, rtol=1e-9, atol=1e-9)
    if name == "iterative_jump":
        assert torch.equal(moved[2], x[2]) and model.net.rows == 3


def test_missing_networks_are_named() -> None:
    objective = CTM(num_scales=8)
    batch = drawn(objective, torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match="needs a teacher"):
        evaluate(objective, batch, Models(constant(0.0, True), constant(0.0, True)))
    with pytest.raises(ValueError, match="averaged target"):
        evaluate(objective, batch, Models(constant(0.0, True), None, constant(0.0, False)))
    with pytest.raises(ValueError, match="unknown term 'gan'"):
        objective.loss("gan", batch, Models(constant(0.0, True)))
