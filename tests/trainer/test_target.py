"""The target network in half precision: the bits of autocast, follows the average, casts once."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ctm_fast import models as networks
from ctm_fast.denoiser import Denoiser
from ctm_fast.rng import stream
from ctm_fast.trainer.distributed import World
from ctm_fast.trainer.ema import Rate
from ctm_fast.trainer.gradients import StepGradients
from ctm_fast.trainer.target import Target
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
