"""TCM: levels, the boundary's share, who makes which target, the loss of a step, its purpose."""

import json
import math

import pytest
import torch
from torch import Tensor, nn

from ctm_fast.denoiser import Denoiser
from ctm_fast.densities import LogNormal, LogStudentT, TruncatedLogNormal
from ctm_fast.gaps import SigmoidGap
from ctm_fast.losses import ECT, L2, OBJECTIVES, TCM, Batch, Models, Norm, evaluate
from ctm_fast.losses.tcm import first_of, first_stage, two_teachers
from ctm_fast.models import shared_dropout
from ctm_fast.rng import stream
from tests.analytic import ConstantNet, column
from tests.trainer import tiny

from . import oracle

SHAPE = (1, 4, 4)
COARSE = SigmoidGap(q=4, stages=1, floor=1e-6)


class Recording(nn.Module):
    """Network with dropout that keeps the levels and the masks of its calls."""

    img_channels, img_resolution, label_dim, augment_dim, has_destination = 1, 4, 0, 0, False

    def __init__(self, seed: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.last_layer = nn.Conv2d(1, 1, 3, padding=1)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=stream(seed)) / 3)
        self.levels: list[Tensor] = []
        self.masks: list[Tensor] = []

    def forward(self, x, c_noise, c_noise_to=None, labels=None):
        self.levels.append((4 * c_noise).exp())
        kept = self.dropout(torch.ones_like(x))
        self.masks.append(kept)
        return self.last_layer(kept * x) * column(1 + c_noise, x)


def pair(dropout: float = 0.0) -> Models:
    """Student in training mode and its frozen first stage, with weights of their own."""
    student = Denoiser(Recording(1, dropout), kind="consistency")
    first = Denoiser(Recording(2, dropout), kind="consistency")
    return Models(student.train(), None, first.eval().requires_grad_(False))


def drawn(objective: TCM, size: int = 64, seed: int = 0) -> Batch:
    images = torch.rand(size, *SHAPE, generator=stream(3)) * 2 - 1
    return Batch(images, None, objective.draw(size, SHAPE, stream(seed)))


@pytest.mark.parametrize(
    ("size", "share", "count"),
    [(64, 0.25, 16), (7, 0.25, 1), (3, 0.25, 0), (10, 0.3, 3), (8, 0, 0)],
)
def test_share_of_the_whole_batch_at_the_boundary_is_exact(size, share, count):
    seen = set()
    for step in range(20):
        draw = TCM(boundary_share=share).draw(size, SHAPE, stream(step))
        rows = draw["t"] == 1 + 1e-8
        assert int(rows.sum()) == count
        assert bool((draw["t"] >= 1).all()) and bool((draw["t"] <= 80).all())
        seen.add(tuple(rows.tolist()))
    assert len(seen) > 1 or count == 0, "the rows are the same in every step"


def test_other_levels_have_the_published_quantiles():
    draw = TCM(boundary_share=0.5).draw(40_000, (1, 1, 1), stream(0))
    others = draw["t"][draw["t"] != 1 + 1e-8]
    assert len(others) == 20_000
    shares = torch.tensor([0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99], dtype=torch.float64)
    published = torch.tensor([1.001, 1.013, 1.043, 1.22, 2.52, 10.4, 24.7, 61.3])
    for p, sigma in zip(shares.tolist(), published.tolist(), strict=True):
        below = float((others <= sigma).double().mean())
        # Rounding of the quantile near 1, and four standard deviations.
        assert abs(below - p) < 4 * math.sqrt(p * (1 - p) / len(others)) + 6e-3


def test_gap_is_at_its_cap_from_the_first_step():
    for progress in (0.0, 0.5, 0.99):
        draw = TCM().draw(256, SHAPE, stream(1), progress)
        t, r = draw["t"], draw["r"]
        delta = t * 0.001 * (1 + 8 * torch.sigmoid(-t))
        torch.testing.assert_close(t - r, delta, rtol=1e-9, atol=0)
    assert bool((r[t == 1 + 1e-8] < 1).all())


def test_targets_below_the_boundary_are_the_first_stages_bit_by_bit():
    objective, models = TCM(gap=COARSE), pair()
    batch = drawn(objective)
    objective.prepare(batch, models)
    draw = batch.draw
    below = draw["r"] < 1
    assert 16 < int(below.sum()) < 64, "both kinds of rows"
    assert torch.equal(draw["below"], below)
    r = draw["r"].float()
    with torch.no_grad():
        found = objective.target(draw["x_r"], r, batch, models, 0.0)
        rows = below.nonzero().flatten()
        first = models.teacher(draw["x_r"][rows], r[rows])
        own = models.student(draw["x_r"][~below], r[~below])
    assert torch.equal(found[rows], first)
    assert torch.equal(found[~below], own)
    called = models.teacher.net.levels
    called.clear()
    objective.loss("consistency", batch, models)
    # The first stage saw its rows, each once, and no other.
    torch.testing.assert_close(torch.cat(called).sort().values, r[rows].sort().values)


def test_the_first_stage_is_never_called_for_rows_above_the_boundary():
    objective, models = TCM(gap=COARSE), pair()
    batch = drawn(objective)
    objective.prepare(batch, models)
    above = (~batch.draw["below"]).nonzero().flatten()
    batch.reorder(above)
    objective.loss("consistency", batch, models)
    assert models.teacher.net.levels == []
    assert len(models.student.net.levels) == 2  # the target and the estimate


def test_the_loss_of_a_step_is_the_two_means():
    objective, models = TCM(boundary_weight=0.3, distance=L2()), pair()
    batch = drawn(objective)
    loss = evaluate(objective, batch, models)["consistency"]
    draw, at = batch.draw, batch.draw["t"] == 1 + 1e-8
    with torch.no_grad():
        target = objective.target(draw["x_r"], draw["r"].float(), batch, models, 0.0)
        error = (models.student(draw["x_t"], draw["t"].float()) - target).square().mean((1, 2, 3))
    each = error / (draw["t"] - draw["r"]).float()
    expected = each[~at].mean() + 0.3 * each[at].mean()
    torch.testing.assert_close(loss.mean(), expected, rtol=1e-5, atol=0)
    # Without rows at the boundary: the mean over all.
    plain = TCM(boundary_share=0.0).draw(16, SHAPE, stream(0))
    assert bool((plain["share"] == 1).all())


def test_both_weights():
    batch, models = drawn(TCM(boundary_share=0.0)), pair()
    t, r = batch.draw["t"], batch.draw["r"]
    _, c_out = models.student.precond.inner.coefficients(t)
    for name, expected in (("inverse_step", 1 / (t - r)), ("karras", c_out**-2)):
        TCM(weighting=name).prepare(batch, models)
        torch.testing.assert_close(batch.draw["weight"], expected.float(), rtol=1e-6, atol=0)


def test_the_frozen_network_gets_no_gradient_and_does_not_change():
    objective, models = TCM(), pair(dropout=0.3)
    before = {name: value.clone() for name, value in models.teacher.state_dict().items()}
    models.teacher.requires_grad_(True)
    evaluate(objective, drawn(objective), models)["consistency"].mean().backward()
    assert all(weight.grad is None for weight in models.teacher.parameters())
    assert all(weight.grad.abs().sum() > 0 for weight in models.student.parameters())
    assert all(torch.equal(value, before[n]) for n, value in models.teacher.state_dict().items())
    assert not any(module.training for module in models.teacher.modules())


def test_both_passes_of_a_row_drop_the_same():
    objective, models = TCM(gap=COARSE), pair(dropout=0.5)
    batch = drawn(objective)
    with shared_dropout("cpu", 5):
        evaluate(objective, batch, models)
    (first,), (low, own, high) = models.teacher.net.masks, models.student.net.masks
    assert bool((first == 0).any())
    assert torch.equal(first, low)
    assert torch.equal(own, high)
    models.student.eval()
    evaluate(objective, batch, models)
    assert bool((models.teacher.net.masks[-1] == 1).all()), "f_1 drops where the student does not"


def test_the_split_into_microbatches_changes_nothing():
    objective, models = TCM(gap=COARSE), pair()
    batch = drawn(objective)
    whole = evaluate(objective, batch, models)["consistency"]
    order = objective.order(batch)
    assert sorted(order.tolist()) == list(range(64))
    assert bool((batch.draw["below"].long()[order].diff() <= 0).all()), "sorted"
    batch.reorder(order)
    parts = [objective.loss("consistency", batch.slice(i, i + 5), models) for i in range(0, 64, 5)]
    torch.testing.assert_close(torch.cat(parts), whole[order], rtol=1e-4, atol=1e-6)


def test_a_pair_of_distillation_is_an_euler_step():
    objective = TCM(distil=True)
    first = exact(oracle.exact_student())
    teacher = two_teachers(first, exact(oracle.exact_teacher()))
    images = oracle.draws(32)
    batch = Batch(images, None, objective.draw(32, (1, 1, 1), stream(0)))
    batch.draw["noise"] = batch.draw["noise"].double()
    models = Models(exact(oracle.exact_student()), None, teacher)
    objective.prepare(batch, models)
    draw = batch.draw
    t, r, x_t = draw["t"], draw["r"], draw["x_t"]
    slope = (x_t - oracle.denoised(x_t, t)) / column(t, x_t)
    step = x_t + column(r - t, x_t) * slope
    torch.testing.assert_close(draw["x_r"], step, rtol=1e-9, atol=1e-9)
    # Of second order in the gap: the exact map has next to no loss, in the student and in f_1.
    loss = objective.loss("consistency", batch, models).mean()
    TCM().prepare(batch, models)
    assert loss < 0.01 * objective.loss("consistency", batch, models).mean()
    with pytest.raises(ValueError, match="two_teachers"):
        objective.prepare(batch, Models(models.student, None, first))


def exact(model: Denoiser) -> Denoiser:
    return model.double().requires_grad_(False)


def test_what_does_not_fit_is_refused():
    student, first = pair().student, pair().teacher
    batch = drawn(TCM())
    with pytest.raises(ValueError, match="kind 'consistency'; got 'denoiser'"):
        TCM().prepare(batch, Models(student, None, Denoiser(ConstantNet())))
    with pytest.raises(ValueError, match="got None"):
        first_of(Models(student))
    assert first_of(Models(student, None, first)) is first
    for density in (LogNormal(), LogStudentT(low=0.9), TruncatedLogNormal()):
        with pytest.raises(ValueError, match=r"no level below boundary=1\.0"):
            TCM(density=density)
    with pytest.raises(ValueError, match="boundary_share=1"):
        TCM(boundary_share=1)
    with pytest.raises(ValueError, match="boundary_weight=-1"):
        TCM(boundary_weight=-1)
    with pytest.raises(ValueError, match="unknown weighting"):
        TCM(weighting="nonsense")


def test_first_stage_is_ect_on_truncated_levels():
    objective = first_stage()
    assert isinstance(objective, ECT)
    assert not isinstance(objective, TCM)
    draw = objective.draw(20_000, (1, 1, 1), stream(0), 0.999)
    assert bool((draw["t"] >= 0.002).all()) and bool((draw["t"] <= 80).all())
    assert bool((draw["r"] >= 1e-6).all())
    ratio = float((draw["r"] / draw["t"]).max())
    assert ratio == pytest.approx(0.999, abs=1e-6)
    assert float((objective.draw(20_000, (1, 1, 1), stream(0))["r"]).min()) == 1e-6
    assert objective.distance == Norm(c=1e-8)
    assert OBJECTIVES.from_json(json.loads(json.dumps(OBJECTIVES.to_json(objective)))) == objective


def test_a_run_of_the_trainer_leaves_the_first_stage_as_it_was():
    def model(seed: int) -> Denoiser:
        made = tiny.denoiser(seed, destination=False, dropout=0.2)
        made.kind = "consistency"
        return made

    first, student = model(1), model(1)
    before, start = tiny.weights(first), tiny.weights(student)
    run = tiny.trainer(TCM(), teacher=first, student=student, microbatch=4, steps=3)
    run.fit()
    assert all(torch.equal(value, before[name]) for name, value in tiny.weights(first).items())
    moved = [name for name, value in tiny.weights(student).items() if (value != start[name]).any()]
    assert any("last_layer" in name for name in moved)


GRID = torch.linspace(-3, 3, 6001, dtype=torch.float64)
MASS = oracle.DATA.tails(GRID[:, None], oracle.LOW)[0]


def quick(x: Tensor, t: Tensor) -> Tensor:
    """The exact map to the lowest level, by a table."""
    share = oracle.DATA.tails(x.double().reshape(-1, 1), t)[0].clamp(1e-12, 1 - 1e-12)
    i = torch.searchsorted(MASS, share).clamp(1, len(MASS) - 1)
    part = (share - MASS[i - 1]) / (MASS[i] - MASS[i - 1])
    return (GRID[i - 1] + part * (GRID[i] - GRID[i - 1])).reshape(x.shape).to(x.dtype)


def trained(steps: int = 400, **options) -> float:
    """Error of a student that has no level next to t', beside the exact first stage."""
    first = oracle.exact_student().requires_grad_(False)
    first.net.exact = quick
    density, gap = TruncatedLogNormal(1.5, 1.0, 1.1, 10.0), SigmoidGap(64, stages=1, floor=1e-6)
    objective = TCM(distance=L2(), density=density, gap=gap, **options)
    teacher = two_teachers(first, oracle.exact_teacher()) if objective.distil else first
    return oracle.train(objective, steps, 256, 10.0, teacher=teacher)


def test_without_the_boundary_the_student_collapses_and_with_it_it_does_not():
    """Nothing else says what the images are: every r is above t'."""
    assert trained() < 0.15
    assert trained(boundary_share=0.0) > 0.5


@pytest.mark.slow
def test_the_upper_part_is_learned_as_well_as_by_training_on_all_levels():
    density = TruncatedLogNormal(-1.1, 2.0, 0.002, 10.0)
    full = ECT(distance=L2(), density=density, gap=SigmoidGap(stages=6))
    error = oracle.train(full, 600, 256, 10.0)
    assert trained(600) < error < 0.25
    assert trained(600, distil=True) < error
