"""The target network in half precision: the bits of autocast, follows the average, casts once."""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ctm_fast import models as networks
from ctm_fast.curricula import SquareRootScales
from ctm_fast.denoiser import Denoiser
from ctm_fast.losses import CM, CTM
from ctm_fast.rng import stream
from ctm_fast.trainer.distributed import World
from ctm_fast.trainer.ema import Rate
from ctm_fast.trainer.gradients import StepGradients
from ctm_fast.trainer.target import Target, target_decay
from tests.trainer import tiny

SMALL = {
    "ctm-digits": {"model_channels": 16, "num_blocks": 1},
    "ctm-adm-imagenet64": {
        "model_channels": 32, "num_blocks": 1, "img_resolution": 16, "channel_mult": (1, 2),
        "label_dim": 10, "attn_resolutions": (8,), "channels_per_head": 32,
    },
}  # fmt: skip


def student(name: str, dtype: torch.dtype | None = torch.bfloat16) -> Denoiser:
    if name == "tiny":
        model = tiny.denoiser()
    else:
        model = Denoiser(networks.build(name, seed=1, **SMALL[name]))
        with torch.no_grad():
            for k, parameter in enumerate(model.parameters()):
                parameter += 0.05 * torch.randn(parameter.shape, generator=stream(9, k))
    model.dtype = dtype
    return model.train()


def jumped(model: Denoiser) -> tuple[torch.Tensor, torch.Tensor]:
    """A jump and its gradient at the input."""
    size = model.img_resolution
    x = torch.randn(3, model.img_channels, size, size, generator=stream(1)).requires_grad_()
    level = torch.tensor([0.5, 2.0, 30.0])
    out = model.jump(x, level, level / 3, torch.arange(3) if model.label_dim else None)
    return out.detach(), torch.autograd.grad(out.sin().sum(), x)[0]


class Casts(TorchDispatchMode):
    """Counts casts of tensors of these shapes to bfloat16."""

    def __init__(self, tensors):
        super().__init__()
        self.shapes, self.count = {t.shape for t in tensors}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and result.dtype == torch.bfloat16:
            self.count += args[0].shape in self.shapes and args[0].dtype == torch.float32
        return result


@pytest.mark.parametrize("name", ["tiny", *SMALL])
def test_same_bits_as_autocast_and_no_cast_of_a_convolution(name):
    model = student(name).eval()
    target = Target(model, Rate(0.5))
    # One computes as before; the average itself is what is saved and moved.
    for ours, theirs in zip(jumped(target.network), jumped(target.model), strict=True):
        assert torch.equal(ours, theirs)
    assert {p.dtype for p in target.model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in target.network.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.25
    target.update(model, 0, 8)
    before = jumped(target.network)[0]
    target.refresh()
    assert torch.equal(jumped(target.network)[0], jumped(target.model)[0])
    assert not torch.equal(before, jumped(target.network)[0])
    weights = [m.weight for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    with Casts(weights) as plain:
        jumped(target.model)
    with Casts(weights) as ours:
        jumped(target.network)
    assert ours.count == 0 < plain.count


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_where_nothing_is_cast_the_average_is_called(dtype):
    model = student("tiny", dtype)
    model = model.double() if dtype else model
    target = Target(model, Rate(0.5))
    assert target.network is target.model
    target.refresh()


def test_a_run_is_that_of_the_average(tmp_path, monkeypatch):
    options = dict(precision="bf16", steps=3, microbatch=4)
    halves = tiny.trainer(**options, out=tmp_path)
    halves.fit()
    again = tiny.trainer(precision="bf16", steps=4, microbatch=4, out=tmp_path)
    again.fit(4)
    monkeypatch.setattr(Target, "network", property(lambda self: self.model))
    plain = tiny.trainer(**options)
    plain.fit()
    for name, value in tiny.weights(plain.student).items():
        assert torch.equal(tiny.weights(halves.student)[name], value)
    plain.fit(4)
    for name, value in tiny.weights(plain.student).items():
        assert torch.equal(tiny.weights(again.student)[name], value)


@pytest.mark.parametrize("inner", ["student", "frozen_student"])
def test_the_students_weights_are_cast_once_per_step(inner, monkeypatch):
    outer = "target" if inner == "student" else "student"
    objective = tiny.CTM(num_scales=4, estimate_inner=inner, estimate_outer=outer)
    run = tiny.trainer(objective, precision="bf16")
    batch = run._feed(0, 0.0)

    def step():
        compute = StepGradients(objective, run.models, World(), batch_size=8, microbatch=2, seed=0)
        compute.prepare(0, batch, 0.0)
        with Casts([run.student.net.first.weight]) as casts:
            compute(0, batch, 0.0)
        return casts.count, [p.grad.clone() for p in run.student.parameters()]

    count, gradients = step()
    # Without gradient nothing is kept.
    assert count == 1 + (0 if inner == "student" else 4)
    monkeypatch.setattr(torch, "clear_autocast_cache", torch.clear_autocast_cache)
    monkeypatch.setattr(StepGradients, "_one_cast", lambda self: torch.enable_grad())
    often, expected = step()
    assert often >= 8
    for ours, theirs in zip(gradients, expected, strict=True):
        assert torch.equal(ours, theirs)


@dataclasses.dataclass(frozen=True)
class Scheduled(CTM):
    """CTM whose target follows more slowly as the training goes on, and in the end as always."""

    num_scales: int = 4
    slope: float = 0.9

    def target_decay(self, progress):
        """The decay at first, None at the end."""
        return self.slope * progress if progress < 0.7 else None


CT = CM(scales=SquareRootScales(2, 4), teacher_solver=None, decay=0.9)  # N = 2, 3, 4, 5, 5
DECAYS = {
    "own": (Scheduled(), [0.0, 0.18, 0.36, 0.54, 0.25]),
    "published": (CT, [0.9 ** (2 / count) for count in (1, 2, 3, 4, 4)]),
}


@pytest.mark.parametrize("name", DECAYS)
def test_an_objective_may_set_the_decay(name):
    objective, decays = DECAYS[name]
    kept = []

    def keep(run, step):
        kept.append([tiny.weights(run.student), tiny.weights(run.models.target)])

    options = dict(target_ema=0.25, ema=(0.5,), preview_every=1, callbacks=[keep])
    run = tiny.trainer(objective, steps=5, **options)
    expected = tiny.weights(run.student)
    run.fit()
    for decay, (student, target) in zip(decays, kept, strict=True):
        for key, value in student.items():
            expected[key] = decay * expected[key] + (1 - decay) * value
            torch.testing.assert_close(target[key], expected[key], rtol=1e-5, atol=1e-7)
            assert decay > 0 or torch.equal(target[key], value)
    # The averages of the run keep their own.
    expected = tiny.weights(tiny.trainer(objective, steps=5).student)
    for student, _ in kept:
        expected = {k: 0.5 * v + 0.5 * student[k] for k, v in expected.items()}
    for key, value in tiny.weights(run.ema).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-7)


def test_a_bad_decay_is_refused():
    assert target_decay(CTM(), 0.5) is None
    for slope in (2.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"target_decay must be in \[0, 1\), got"):
            target_decay(Scheduled(slope=slope), 0.5)
