"""Consistency models: grid, teacher solve, target average, the exact map, a short training."""

from dataclasses import dataclass

import pytest
import torch

from ctm_fast.curricula import FixedScales, SquareRootScales
from ctm_fast.losses import CM, L1, L2, Batch, Models, PseudoHuber, evaluate
from ctm_fast.losses.cm import TEACHER_SOLVERS, euler, heun
from ctm_fast.rng import stream
from ctm_fast.sigmas import karras_sigmas
from tests.trainer.tiny import denoiser, trainer

from .oracle import HIGH, draws, exact_student, exact_teacher, moved, train
from .tools import drawn

GROWING = SquareRootScales(2, 150)


def pair(objective: CM, progress: float = 0.0, size: int = 400) -> Batch:
    batch = Batch(draws(size), None, objective.draw(size, (1, 1, 1), stream(0, 1), progress))
    models = Models(exact_student(), None, exact_teacher())
    objective.prepare(batch, models, progress)
    return batch


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.999])
def test_levels_are_neighbours_of_the_grid_and_equally_likely(progress: float) -> None:
    objective = CM(scales=GROWING, teacher_solver=None)
    sigmas = karras_sigmas(GROWING.num_scales(progress))
    t, r = objective.levels(30_000, stream(2), progress)
    index = torch.searchsorted(-sigmas, -t)
    assert torch.equal(sigmas[index], t) and torch.equal(sigmas[index + 1], r)
    share = torch.bincount(index, minlength=len(sigmas) - 1) / len(t)
    torch.testing.assert_close(share, torch.full_like(share, 1 / len(share)), rtol=0.35, atol=0)


def test_training_pairs_have_the_same_noise_and_need_nothing() -> None:
    objective = CM(teacher_solver=None)
    assert objective.needs == set()
    batch = pair(objective)
    t, r, noise = (batch.draw[name] for name in ("t", "r", "noise"))
    t, r = t.reshape(-1, 1, 1, 1), r.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(batch.draw["x_t"], batch.images + t * noise)
    torch.testing.assert_close(batch.draw["x_r"], batch.images + r * noise)
    assert "t_index" not in batch.draw


def test_training_pairs_are_euler_steps_on_average() -> None:
    batch, models = pair(CM(teacher_solver=None), size=40_000), Models(None, None, exact_teacher())
    t = torch.full((len(batch),), 0.6, dtype=torch.float64)
    x_t = batch.images + 0.6 * batch.draw["noise"]
    x_r = batch.images + 0.3 * batch.draw["noise"]
    sigmas = torch.tensor([0.6, 0.3], dtype=torch.float64)
    by_teacher = euler(models, x_t, sigmas, torch.zeros_like(t).long(), 1, None)
    # The same at every x_t: the difference has no mean in any of 10 groups of neighbours.
    order = x_t.flatten().argsort()
    groups = (x_r - by_teacher).flatten()[order].reshape(10, -1)
    assert float((groups.mean(1) / groups.std(1)).abs().max()) < 4 / 4000**0.5


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("scales", [FixedScales(18), GROWING])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_distillation_pairs_by_hand(solver: str, scales, steps: int) -> None:
    objective = CM(scales=scales, teacher_solver=solver, teacher_steps=steps)
    assert objective.needs == {"teacher"}
    batch, teacher = pair(objective, 0.01), exact_teacher()
    sigmas = karras_sigmas((scales.num_scales(0.01) - 1) * steps + 1)
    x = batch.draw["x_t"]
    for k in range(steps):
        index = batch.draw["t_index"] * steps + k
        t, r = (sigmas[i].reshape(-1, 1, 1, 1) for i in (index, index + 1))
        d = (x - teacher(x, t.flatten())) / t
        moved_on = x + (r - t) * d
        if solver == "heun":
            d2 = (moved_on - teacher(moved_on, r.flatten())) / r
            moved_on = x + (r - t) * (d + d2) / 2
        x = moved_on
    torch.testing.assert_close(batch.draw["x_r"], x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sigmas[batch.draw["t_index"] * steps + steps], batch.draw["r"])


def test_residuals_of_the_exact_map_after_one_step() -> None:
    # Table of the family's specification: f(x_r) - f(x_t) for a teacher step from t to r.
    rows = [
        (1.0, 0.5, -0.6, 0.0799, -0.0064, 1e-4),
        (1.0, 0.8, -0.6, 0.0062, -0.0008, 1e-4),
        (1.0, 0.95, -0.6, 0.0003, -0.00001, 5e-5),
        (0.5, 0.4, 0.0, -0.0055, -0.00002, 5e-5),
    ]
    models = Models(exact_student(), None, exact_teacher())
    for t, r, x, by_euler, by_heun, tolerance in rows:
        x_t = torch.full((1, 1, 1, 1), x, dtype=torch.float64)
        sigmas, start = torch.tensor([t, r], dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
        for solver, expected in ((euler, by_euler), (heun, by_heun)):
            x_r = solver(models, x_t, sigmas, start, 1, None)
            residual = float(moved(x_r, r) - moved(x_t, t))
            assert residual == pytest.approx(expected, abs=tolerance)


@dataclass(frozen=True)
class ExactCM(CM):
    """Distillation by a teacher without error."""

    def point(self, batch, models, progress):
        return moved(batch.draw["x_t"], batch.draw["t"], batch.draw["r"])


def exact_loss(objective: CM) -> torch.Tensor:
    batch = Batch(draws(400), None, objective.draw(400, (1, 1, 1), stream(0, 1)))
    models = Models(exact_student(), None, exact_teacher())
    return evaluate(objective, batch, models)["consistency"].detach()


def test_exact_map_has_no_loss_with_an_exact_teacher() -> None:
    assert float(exact_loss(ExactCM(distance=L1())).max()) < 1e-9


def test_exact_map_has_less_loss_with_heun_than_with_euler() -> None:
    by_euler, by_heun = (float(exact_loss(CM(teacher_solver=s)).mean()) for s in ("euler", "heun"))
    refined = float(exact_loss(CM(teacher_solver="heun", teacher_steps=4)).mean())
    training = float(exact_loss(CM(teacher_solver=None)).mean())
    assert refined < by_heun / 100
    assert by_heun < by_euler / 4
    assert by_euler < training / 100


def test_target_is_the_average_where_there_is_one() -> None:
    objective = CM(teacher_solver=None, decay=0.9)
    assert objective.needs == {"target"}
    student, average = (denoiser(seed=s, destination=False) for s in (1, 2))
    student.kind = average.kind = "consistency"
    batch = drawn(objective, torch.randn(4, 1, 4, 4, generator=stream(1)))
    models = Models(student, average)
    objective.prepare(batch, models)
    _, targets = objective.compared(batch, models, 0.0)
    expected = average(batch.draw["x_r"], batch.draw["r"])
    torch.testing.assert_close(targets["pixels"], expected)
    assert not targets["pixels"].requires_grad
    with pytest.raises(ValueError, match=r"CM with decay=0.9 needs the averaged target"):
        objective.compared(batch, Models(student), 0.0)


def test_without_decay_an_average_changes_nothing() -> None:
    objective = CM(teacher_solver=None)
    student = denoiser(seed=1, destination=False)
    student.kind = "consistency"
    batch = drawn(objective, torch.randn(4, 1, 4, 4, generator=stream(1)))
    alone = evaluate(objective, batch, Models(student))["consistency"]
    beside = Models(student, denoiser(seed=2, destination=False))
    assert torch.equal(evaluate(objective, batch, beside)["consistency"], alone)


def test_decay_of_the_target() -> None:
    assert CM().target_decay(0.5) is None
    assert CM(scales=FixedScales(40), decay=0.95).target_decay(0.5) == 0.95
    training = CM(scales=GROWING, teacher_solver=None, decay=0.9)
    assert training.target_decay(0.0) == pytest.approx(0.81)
    paper = CM(scales=GROWING, teacher_solver=None, decay=0.9, decay_count="levels")
    assert paper.target_decay(0.0) == pytest.approx(0.9)


def test_weightings() -> None:
    t = torch.tensor([0.5, 4.0], dtype=torch.float64)
    models = Models(exact_student())
    expected = {"uniform": t**0, "snr": t**-2, "truncated_snr": torch.tensor([4.0, 1.0])}
    for name, values in expected.items():
        found = CM(weighting=name).weight(t, t / 2, models)
        torch.testing.assert_close(found, values.double())
    data = models.student.sigma_data
    torch.testing.assert_close(CM(weighting="karras").weight(t, t, models), t**-2 + data**-2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"teacher_solver": "rk4"}, "unknown teacher_solver 'rk4'; choose from"),
        ({"teacher_steps": 0}, "teacher_steps must be at least 1, got 0"),
        ({"decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
        ({"decay_count": "scales"}, "unknown decay_count 'scales'"),
        ({"weighting": "nope"}, "weighting 'nope'"),
        ({"sigma_max": 0.001}, "sigma_max=0.001"),
    ],
)
def test_bad_options_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CM(**fields)


@pytest.mark.parametrize("solver", sorted(TEACHER_SOLVERS))
def test_distillation_without_teacher_is_refused(solver: str) -> None:
    objective = CM(teacher_solver=solver)
    batch = Batch(draws(2), None, objective.draw(2, (1, 1, 1), stream(0, 1)))
    with pytest.raises(ValueError, match="consistency distillation needs a teacher"):
        objective.prepare(batch, Models(exact_student()))


def test_short_distillation_finds_the_map() -> None:
    objective = CM(weighting="snr_plus_one", sigma_max=10.0)
    assert train(objective, 500, 512, 10.0, lr=1e-2, teacher=exact_teacher()) < 0.1


@pytest.mark.slow
def test_distillation_finds_the_map() -> None:
    objective = CM(weighting="snr_plus_one")
    assert train(objective, 3000, 512, HIGH, lr=1e-2, teacher=exact_teacher()) < 0.05


@pytest.mark.slow
def test_training_finds_the_map() -> None:
    objective = CM(L2(), sigma_max=10.0, scales=GROWING, teacher_solver=None, weighting="karras")
    assert train(objective, 2000, 512, 10.0) < 0.11


def test_the_trainer_runs_it_with_any_microbatch() -> None:
    objective = CM(scales=GROWING, decay=0.9)
    found = []
    for microbatch in (None, 2):
        student = denoiser(seed=1, destination=False)
        student.kind = "consistency"
        run = trainer(objective, student=student, microbatch=microbatch)
        summary = run.fit(4)
        assert summary.loss["consistency"] > 0
        found.append(run.student.state_dict())
    for name, weight in found[0].items():
        torch.testing.assert_close(found[1][name], weight, rtol=1e-4, atol=1e-6)


def test_distances_are_those_of_pixels() -> None:
    student = exact_student()
    for distance in (L1(), L2(), PseudoHuber()):
        objective = CM(distance, teacher_solver=None)
        batch = drawn(objective, draws(8))
        loss = evaluate(objective, batch, Models(student))["consistency"]
        with torch.no_grad():
            a = student(batch.draw["x_t"], batch.draw["t"])
            b = student(batch.draw["x_r"], batch.draw["r"])
        kept = distance.targets(b, None, Models(student))
        torch.testing.assert_close(loss, distance(a, kept, None, Models(student)))
