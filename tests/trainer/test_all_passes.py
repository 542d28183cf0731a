"""What one CTM + DSM step costs in network passes, and its gradient against the plain arrangement.

The minimum per image: the teacher's 2n calls; one call of the student and of the target and one of
the distance's encoder for the target image, without gradient; the student's estimate and denoising,
forward and backward; the target network and the encoder of the estimate, forward and backward to
their input. Adaptive weights cost no pass. Images that have arrived at sigma_min need no target.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ctm_fast import models as networks
from ctm_fast.denoiser import Denoiser
from ctm_fast.losses import CTM, Batch, Models
from ctm_fast.rng import stream
from ctm_fast.solvers.heun import heun_solve_reference
from ctm_fast.timesteps import TrajectoryLevels
from ctm_fast.trainer import gradients as module
from ctm_fast.trainer.distributed import World
from ctm_fast.trainer.gradients import Numbers, StepGradients

STEPS, BATCH, MICRO = 3, 8, 4
LEVELS = TrajectoryLevels(max_steps=STEPS, step_count="fixed")
OBJECTIVE = CTM(num_scales=8, levels=LEVELS)


def trio(dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> Models:
    """Three small U-Nets with weights unlike each other."""
    small = {"model_channels": 16, "num_blocks": 1, "channel_mult": (1, 2), "dropout": dropout}
    teacher = Denoiser(networks.build("digits", seed=1, **small))
    student, target = networks.student_from(teacher, 2), networks.student_from(teacher, 3)
    for k, model in enumerate((teacher, student, target)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=stream(9, k))
        model.to(dtype).requires_grad_(k == 1)
    return Models(student.train(), target.train(), teacher.eval())


def drawn(dtype: torch.dtype = torch.float32) -> Batch:
    """Eight images: of the jumps u -> s three stay where they are, of those s -> sigma_min four."""
    images = torch.rand(BATCH, 1, 8, 8, generator=stream(4)) * 2 - 1
    draw = OBJECTIVE.draw(BATCH, (1, 8, 8), stream(0, 0))
    draw["t_index"] = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
    draw["u_index"] = draw["t_index"] + STEPS
    draw["s_index"] = torch.tensor([7, 4, 6, 7, 7, 3, 7, 6])
    draw = {
        k: v.to(dtype) if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for k, v in draw.items()
    }
    return Batch(images.to(dtype), torch.arange(BATCH), draw)


def run(models: Models, batch: Batch, **options: Any) -> Numbers:
    """One step; its gradient is in `p.grad`."""
    microbatch = options.pop("microbatch", MICRO)
    compute = StepGradients(
        options.pop("objective", OBJECTIVE),
        models,
        World(),
        batch_size=BATCH,
        microbatch=microbatch,
        seed=0,
        **options,
    )
    compute.prepare(0, batch, 0.0)
    return compute(0, batch, 0.0)


class Passes(TorchDispatchMode):
    """Counts calls and images per network, and convolutions by what their backward computes."""

    def __init__(self, models: Models) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.images: Counter[str] = Counter()
        self.backward: Counter[str] = Counter()
        self.convolutions: Counter[str] = Counter()
        self._handles = []
        for name in ("student", "target", "teacher"):
            net = getattr(models, name).net
            self._handles.append(net.register_forward_hook(self._counting(name)))
        features = models.teacher.net.features
        hook = self._counting("features")

        def counted(x: torch.Tensor, *args: Any) -> list[torch.Tensor]:
            maps = features(x, *args)
            hook(None, None, maps[-1])
            return maps

        models.teacher.net.features = counted

    def _counting(self, name: str) -> Any:
        def hook(_: Any, __: Any, output: torch.Tensor) -> None:
            way = f"{name} with gradient" if output.requires_grad else name
            self.calls[way] += 1
            self.images[way] += len(output)
            if output.requires_grad:
                output.register_hook(lambda g: self.backward.update({name: len(g)}))

        return hook

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            mask = args[-1]
            self.convolutions["full" if mask[1] else "input only"] += 1
        return func(*args, **(kwargs or {}))


def convolutions(models: Models) -> tuple[int, int, int]:
    """Backward convolutions of a pass through student, target and encoder; the last two to the
    input only."""
    x = torch.rand(1, 1, 8, 8, generator=stream(8))
    level, to = torch.ones(1), torch.full((1,), 0.5)

    def measured(output: Any) -> Counter[str]:
        with Passes(models) as passes:
            output.sum().backward()
        return passes.convolutions

    student = measured(models.student.jump(x, level, to))
    x.requires_grad_()
    target = measured(models.target.jump(x, level, to))
    encoder = measured(models.teacher.net.features(x, level)[-1])
    assert student["input only"] == target["full"] == encoder["full"] == 0
    for p in models.student.parameters():
        p.grad = None
    return student["full"], target["input only"], encoder["input only"]


def test_the_minimum_of_passes() -> None:
    models, batch = trio(), drawn()
    per_student, per_target, per_encoder = convolutions(models)
    with Passes(models) as passes:
        run(models, batch)
    inner, outer, parts = 5, 4, 2  # images with u > s; with s > sigma_min; microbatches
    assert passes.calls == {
        "teacher": 2 * STEPS,
        "student": 1,
        "target": 1,
        "features": 1,
        "student with gradient": 2 * parts,
        "target with gradient": 1,  # images that need it are together
        "features with gradient": parts,
    }
    assert passes.images == {
        "teacher": 2 * STEPS * BATCH,
        "student": inner,
        "target": outer,
        "features": BATCH,
        "student with gradient": 2 * BATCH,
        "target with gradient": outer,
        "features with gradient": BATCH,
    }
    assert passes.backward == {"student": 2 * BATCH, "target": outer, "features": BATCH}
    # A second traversal of anything, or an unused gradient of a frozen weight, would show here.
    full, input_only = 2 * parts * per_student, per_target + parts * per_encoder
    assert passes.convolutions == {"full": full, "input only": input_only}


def test_one_pass_costs_one_call_and_a_gradient_at_the_last_layer() -> None:
    models, batch = trio(), drawn()
    per_student, per_target, per_encoder = convolutions(models)
    with Passes(models) as passes:
        run(models, batch, microbatch=None, one_pass=True)
    assert passes.calls["student with gradient"] == passes.calls["target with gradient"] == 1
    assert passes.images["student with gradient"] == 2 * BATCH
    assert passes.images["target with gradient"] == 4
    # The last layer's gradient once for each term, and again in the pass itself.
    full = per_student + 2
    assert passes.convolutions == {"full": full, "input only": per_target + per_encoder}


def test_a_term_that_is_off_costs_nothing() -> None:
    models, batch = trio(), drawn()
    objective = dataclasses.replace(OBJECTIVE, denoising_frequency=0.5)
    batch.draw["dsm_on"] = 0.0
    with Passes(models) as passes:
        numbers = run(models, batch, objective=objective)
    assert passes.images["student with gradient"] == BATCH
    assert numbers.losses[0] > 0
    assert [float(v[1]) for v in (numbers.losses, numbers.weights, numbers.norms)] == [0, 1, 0]
    assert torch.equal(numbers.total, numbers.norms[0])


def plain(models: Models, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(losses, adaptive weight) in the order of the published code, on the whole batch.

    Every image takes every jump; the weight comes from two gradients at the last layer, each of
    which passes through everything above it, and one backward follows.
    """
    draw, labels, distance = batch.draw, batch.labels, OBJECTIVE.compared_by
    student, target = models.student, models.target
    dtype = batch.images.dtype
    sigmas = OBJECTIVE.grid(student).to(dtype)
    t, u, s = (sigmas[draw[f"{name}_index"]] for name in "tus")
    low = sigmas[-1].expand_as(s)
    x_t = batch.images + t.reshape(-1, 1, 1, 1) * draw["noise"]
    with torch.no_grad():
        x_u = heun_solve_reference(
            models.teacher, x_t, sigmas, draw["t_index"], draw["num_steps"], labels
        )
        image = target.jump(student.jump(x_u, u, s, labels), s, low, labels)
    estimate = target.jump(student.jump(x_t, t, s, labels), s, low, labels)
    ctm = distance(estimate, distance.targets(image, labels, models), labels, models).mean()
    sigma, sd = draw["dsm_sigma"], student.sigma_data
    noisy = batch.images + sigma.reshape(-1, 1, 1, 1) * draw["dsm_noise"]
    error = (student(noisy, sigma, labels) - batch.images) ** 2
    dsm = ((sigma**2 + sd**2) / (sigma * sd) ** 2 * error.mean((1, 2, 3))).mean()
    last = student.last_layer.weight
    norms = [torch.autograd.grad(x, last, retain_graph=True)[0].norm() for x in (ctm, dsm)]
    weight = (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4)
    (ctm + weight * dsm).backward()
    return torch.stack([ctm, dsm]).detach(), weight


@pytest.mark.parametrize(
    "options", [{"microbatch": MICRO}, {"microbatch": 3}, {"microbatch": None, "one_pass": True}]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_gradients_equal_the_plain_arrangement(
    dtype: torch.dtype, tolerance: float, options: dict[str, Any]
) -> None:
    models, same = trio(dtype), trio(dtype)
    losses, weight = plain(same, drawn(dtype))
    numbers = run(models, drawn(dtype), **options)
    assert weight < 1e4
    # Losses and weights are kept in float32.
    torch.testing.assert_close(numbers.losses.double(), losses.double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(numbers.weights[1].double(), weight.double(), rtol=1e-5, atol=0)
    largest = max(p.grad.abs().max() for p in same.student.parameters())
    for ours, theirs in zip(models.student.parameters(), same.student.parameters(), strict=True):
        assert (ours.grad - theirs.grad).abs().max() < tolerance * largest
    for other in (models.target, models.teacher):
        assert all(p.grad is None for p in other.parameters())


def test_one_pass_with_dropout_draws_one_mask_for_both_terms(monkeypatch) -> None:
    seeds = []
    original = module.shared_dropout
    monkeypatch.setattr(module, "shared_dropout", lambda d, s: seeds.append(s) or original(d, s))
    models = trio(dropout=0.3)
    first = run(models, drawn(), microbatch=None, one_pass=True)
    again = run(models, drawn(), microbatch=None, one_pass=True)
    assert torch.equal(first.packed(), again.packed())
    assert len(set(seeds)) == 2  # prepare, and both terms
