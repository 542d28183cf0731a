"""CTM's objective: who jumps where, gradients, the exact solution, and every option."""

import dataclasses
import itertools
import math

import pytest
import torch

from ctm_fast.losses import CTM, L2, Batch, Models, PseudoHuber, TeacherFeatures
from ctm_fast.registry import fields_from_json, fields_to_json
from ctm_fast.rng import stream
from ctm_fast.sigmas import karras_sigmas
from ctm_fast.timesteps import TrajectoryLevels
from tests.analytic import ConstantNet, Gaussian, GaussianNet

from .tools import constant, drawn


def exact(destination: bool, std: float = 0.5):
    return GaussianNet(Gaussian(0.1, std), destination=destination).double().denoiser()


def exact_batch(objective: CTM, size: int = 64) -> Batch:
    images = 0.1 + 0.5 * torch.randn(size, 1, 4, 4, generator=stream(3), dtype=torch.float64)
    batch = drawn(objective, images)
    batch.draw = {
        k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for k, v in batch.draw.items()
    }
    return batch


def residual(objective: CTM) -> float:
    student, target = exact(True), exact(True).requires_grad_(False)
    batch = exact_batch(objective)
    models = Models(student, target, exact(False))
    objective.prepare(batch, models)
    return objective.loss("ctm", batch, models).max().item()


def test_exact_solution_has_no_residual_when_the_pair_is_exact() -> None:
    jump = CTM(num_scales=40, distance=L2(), self_teacher="jump")
    assert residual(jump) < 1e-12
    steps = CTM(num_scales=40, distance=L2(), self_teacher="iterative_jump")
    assert residual(steps) < 1e-12


def test_residual_of_the_exact_solution_falls_with_the_order_of_the_solver() -> None:
    values = [
        residual(CTM(num_scales=n, distance=L2(), levels=TrajectoryLevels(step_count="fixed")))
        for n in (20, 40, 80)
    ]
    for coarse, fine in itertools.pairwise(values):
        # A squared distance of a second-order error falls 16-fold when the steps are halved.
        assert 12 < coarse / fine < 22
    one_step = CTM(
        num_scales=40, distance=L2(), levels=TrajectoryLevels(max_steps=1, step_count="fixed")
    )
    assert math.sqrt(residual(one_step)) < 1e-2


def test_a_wrong_student_has_a_residual() -> None:
    objective = CTM(num_scales=40, distance=L2(), self_teacher="jump")
    batch = exact_batch(objective)
    wrong = GaussianNet(Gaussian(0.1, 0.7)).double().denoiser()
    models = Models(wrong, exact(True).requires_grad_(False))
    objective.prepare(batch, models)
    assert objective.loss("ctm", batch, models).max().item() > 1e-3


def composed(objective: CTM) -> tuple[torch.Tensor, torch.Tensor, Batch, Models]:
    """Estimate and target for three networks with different constant outputs."""
    models = Models(
        constant(0.3, True), constant(-0.2, True).requires_grad_(False), constant(0.7, False)
    )
    batch = drawn(objective, torch.randn(32, 1, 4, 4, generator=stream(5)))
    objective.prepare(batch, models)
    return objective.estimate(batch, models), batch.draw["target_pixels"], batch, models


def by_hand(objective: CTM, batch: Batch, models: Models) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by the formulas of the paper, one image at a time."""
    sigmas = karras_sigmas(objective.num_scales).float()
    draw = batch.draw
    estimates, targets = [], []
    for row in range(len(batch)):
        i, j, k = (int(draw[f"{name}_index"][row]) for name in "tus")
        t, u, s, low = sigmas[i], sigmas[j], sigmas[k], sigmas[-1]
        x_t = (batch.images[row] + t * draw["noise"][row])[None]
        x = x_t
        for a, b in itertools.pairwise(range(i, j + 1)):
            d = (x - models.teacher(x, sigmas[a])) / sigmas[a]
            guess = x + (sigmas[b] - sigmas[a]) * d
            d2 = (guess - models.teacher(guess, sigmas[b])) / sigmas[b]
            x = x + (sigmas[b] - sigmas[a]) * (d + d2) / 2
        inner = {"student": models.student, "target": models.target}
        if objective.target_inner == "none":
            at, x_s = u, x
        else:
            at, x_s = s, inner[objective.target_inner].jump(x, u, s)
        targets.append(models.target.jump(x_s, at, low))
        to = u if objective.target_matching else s
        z = models.student.jump(x_t, t, to)
        estimates.append(inner[objective.estimate_outer].jump(z, to, low))
    return torch.cat(estimates), torch.cat(targets)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(
    ("outer", "inner", "matching"),
    [
        ("target", "student", False),
        ("target", "target", False),
        ("student", "student", False),
        ("target", "none", True),
        ("target", "student", True),
    ],
)
def test_estimate_and_target_are_the_published_compositions(
    outer: str, inner: str, matching: bool, per_sample: bool
) -> None:
    objective = CTM(
        num_scales=8,
        distance=PseudoHuber(),
        levels=TrajectoryLevels(max_steps=3, per_sample=per_sample),
        estimate_outer=outer,
        target_inner=inner,
        target_matching=matching,
    )
    estimate, target, batch, models = composed(objective)
    expected_estimate, expected_target = by_hand(objective, batch, models)
    torch.testing.assert_close(estimate, expected_estimate, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(target, expected_target, rtol=2e-5, atol=2e-5)


def test_gradient_reaches_the_student_through_the_frozen_target_only() -> None:
    levels = TrajectoryLevels(max_steps=2)
    objective = CTM(num_scales=8, distance=PseudoHuber(), levels=levels)
    _, target, batch, models = composed(objective)
    assert not target.requires_grad
    objective.loss("ctm", batch, models).mean().backward()
    assert models.student.net.number.grad.abs() > 0
    assert models.target.net.number.grad is None
    assert models.teacher.net.number.grad is None
    # Carried by the student itself, the second jump adds its own gradient.
    through = models.student.net.number.grad.clone()
    models.student.net.number.grad = None
    direct = CTM(num_scales=8, distance=PseudoHuber(), levels=levels, estimate_outer="student")
    direct.loss("ctm", batch, models).mean().backward()
    assert not torch.allclose(models.student.net.number.grad, through)


def test_terms_do_not_depend_on_the_microbatch() -> None:
    objective = CTM(num_scales=8, distance=PseudoHuber(), levels=TrajectoryLevels(max_steps=3))
    _, _, batch, models = composed(objective)
    for term in objective.terms:
        whole = objective.loss(term, batch, models)
        parts = [objective.loss(term, batch.slice(i, i + 8), models) for i in range(0, 32, 8)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-6, atol=1e-7)


def test_draws_depend_on_the_generator_alone() -> None:
    objective = CTM()
    first = objective.draw(16, (1, 4, 4), stream(0, 5))
    second = objective.draw(16, (1, 4, 4), stream(0, 5))
    other = objective.draw(16, (1, 4, 4), stream(0, 6))
    assert all(
        torch.equal(first[k], second[k]) if torch.is_tensor(first[k]) else first[k] == second[k]
        for k in first
    )
    assert not torch.equal(first["noise"], other["noise"])
    assert not torch.equal(first["noise"], first["dsm_noise"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"estimate_outer": "teacher"}, "estimate_outer 'teacher'"),
        ({"target_inner": "sg"}, "target_inner 'sg'"),
        ({"estimate_inner": "ema"}, "estimate_inner 'ema'"),
        ({"estimate_inner": "target"}, "no gradient flows through estimate_inner='target'"),
        ({"denoising_frequency": 0.0}, "denoising_frequency must be in"),
        ({"teacher_solver": "rk4"}, "teacher_solver 'rk4'"),
        ({"teacher_slots": 0}, "teacher_slots must be at least 1, got 0"),
        ({"self_teacher": "euler"}, "self_teacher 'euler'"),
        ({"weighting": "nope"}, "weighting 'nope'"),
        ({"consistency_weight": -1.0}, "consistency_weight=-1.0"),
        ({"consistency_weight": 0.0}, "consistency_weight=0 leaves nothing to balance"),
        ({"num_scales": 1}, "num_scales=1"),
        ({"num_scales": 4, "levels": TrajectoryLevels(max_steps=9)}, "max_steps=9"),
    ],
)
def test_bad_options_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CTM(**fields)


@pytest.mark.parametrize(
    ("inner", "network"), [("frozen_student", "student"), ("target", "target")]
)
def test_estimate_whose_inner_jump_has_no_gradient(inner: str, network: str) -> None:
    levels = TrajectoryLevels(max_steps=2)
    objective = CTM(
        num_scales=8,
        distance=PseudoHuber(),
        levels=levels,
        estimate_inner=inner,
        estimate_outer="student",
    )
    estimate, _, batch, models = composed(objective)
    t, s = batch.draw["t"], batch.draw["s"]
    with torch.no_grad():
        x_s = getattr(models, network).jump(batch.draw["x_t"], t, s)
        expected = models.student.jump(x_s, s, torch.full_like(s, 0.002))
    torch.testing.assert_close(estimate, expected)
    (gradient,) = torch.autograd.grad(estimate.sum(), models.student.net.number)
    (outer,) = torch.autograd.grad(
        models.student.jump(x_s, s, torch.full_like(s, 0.002)).sum(), models.student.net.number
    )
    torch.testing.assert_close(gradient, outer)


def test_dsm_on_a_share_of_the_steps() -> None:
    objective = CTM(num_scales=8, distance=PseudoHuber(), denoising_frequency=0.3)
    draws = [objective.draw(1, (1, 4, 4), stream(0, k))["dsm_on"] for k in range(400)]
    assert set(draws) == {0.0, 1.0}
    assert 0.22 < sum(draws) / 400 < 0.38
    *_, batch, models = composed(objective)
    for on in (0.0, 1.0):
        batch.draw["dsm_on"] = on
        loss = objective.loss("dsm", batch, models)
        assert (loss > 0).all() if on else (loss == 0).all()


def test_without_dsm_there_is_one_term_and_no_balance() -> None:
    objective = CTM(denoising_weight=0.0)
    assert objective.terms == ("ctm",)
    assert objective.balance == {}
    assert "dsm_noise" not in objective.draw(2, (1, 4, 4), stream(0))


def test_fixed_weights_act_on_the_sum_of_balanced_terms() -> None:
    plain = CTM(num_scales=8, distance=L2())
    heavy = CTM(num_scales=8, distance=L2(), consistency_weight=2.0, denoising_weight=3.0)
    _, _, batch, models = composed(plain)
    sizes = {}
    for objective in (plain, heavy):
        losses = [objective.loss(term, batch, models).mean() for term in objective.terms]
        number = models.student.net.number
        norms = [torch.autograd.grad(loss, number)[0].norm() for loss in losses]
        sizes[objective] = norms[0], objective.balance["dsm"](*norms) * norms[1]
    assert sizes[heavy][0] == pytest.approx(2 * sizes[plain][0])
    assert sizes[heavy][1] == pytest.approx(3 * sizes[plain][1])


@pytest.mark.parametrize("matching", [False, True])
def test_weighting_depends_on_t_and_s_also_where_the_estimate_stops_at_u(matching: bool) -> None:
    levels = TrajectoryLevels(max_steps=3)
    plain = CTM(num_scales=8, levels=levels, distance=L2(), target_matching=matching)
    weighted = dataclasses.replace(plain, weighting="inverse_gap")
    _, _, batch, models = composed(plain)
    expected = plain.loss("ctm", batch, models)
    sigmas = plain.grid(models.student)
    t, s = sigmas[batch.draw["t_index"]], sigmas[batch.draw["s_index"]]
    assert (batch.draw["s_index"] != batch.draw["u_index"]).any()
    weighted.prepare(batch, models)
    loss = weighted.loss("ctm", batch, models)
    torch.testing.assert_close(loss, expected / (1 - s / t), rtol=1e-5, atol=0)


def test_default_distance_needs_no_external_weights() -> None:
    assert CTM().compared_by == TeacherFeatures()
    assert CTM(self_teacher="jump").compared_by == PseudoHuber()
    assert CTM(distance=L2()).compared_by == L2()


@pytest.mark.parametrize("distance", [None, PseudoHuber(0.03), TeacherFeatures(sigma=0.3)])
def test_json_round_trip(distance) -> None:
    objective = CTM(distance=distance, levels=TrajectoryLevels(max_steps=4))
    assert fields_from_json(CTM, fields_to_json(objective), "ctm") == objective


def test_constant_net_counts() -> None:
    net = ConstantNet(0.0)
    net(torch.zeros(3, 1, 4, 4), torch.zeros(3))
    assert (net.calls, net.rows) == (1, 3)


def test_slots_and_the_multistep_solver_of_the_teacher() -> None:
    plain = CTM(num_scales=8, distance=L2(), levels=TrajectoryLevels(max_steps=5, per_sample=True))
    _, target, batch, models = composed(plain)
    steps, net = int(batch.draw["num_steps"].sum()), models.teacher.net
    net.rows = 0
    dataclasses.replace(plain, teacher_slots=5).prepare(batch, models)
    torch.testing.assert_close(batch.draw["target_pixels"], target, rtol=1e-5, atol=1e-5)
    assert net.rows == 2 * steps
    dataclasses.replace(plain, teacher_solver="multistep").prepare(batch, models)
    assert net.rows == 3 * steps + len(batch)
