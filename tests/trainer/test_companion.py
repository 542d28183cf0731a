"""What is trained beside the student: updates, averages, checkpoints, refusals; frozen networks."""

import pytest
import torch
from safetensors import safe_open

from ctm_fast.losses import CTM, DSM, SCM, Models
from ctm_fast.losses.learned_weight import LearnedWeight
from ctm_fast.trainer.companion import (
    SharedBuffers,
    companion_betas,
    companion_of,
    companion_rate,
    frozen,
)
from ctm_fast.trainer.distributed import World
from tests.trainer import tiny

LEARNS = SCM(warmup=0.5)


def newest(folder):
    return max((folder / "checkpoints").glob("step-*"))


def content(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def beside(run):
    return tiny.weights(run.models.companion)


def test_it_is_trained_and_not_averaged():
    run = tiny.trainer(LEARNS, steps=3)
    before = beside(run)
    assert all(value.abs().max() == 0 for name, value in before.items() if "bias" in name)
    run.fit()
    after = beside(run)
    assert not torch.equal(after["bias"], before["bias"])
    assert not torch.equal(after["weight"], before["weight"])
    assert torch.equal(after["frequencies"], before["frequencies"])
    student = set(tiny.weights(run.student))
    assert all(set(tiny.weights(model)) == student for model in run.emas)
    assert not student & set(after)


def test_runs_without_are_as_before():
    for objective in (None, DSM(), SCM(learned_weighting=False)):
        run = tiny.trainer(objective, steps=1)
        assert run.models.companion is None
        assert list(run._update.optimizers) == ["student"]
        run.fit()


@pytest.mark.parametrize(("own", "expected"), [(None, 1e-2), (0.25, 0.25)])
def test_learning_rate(own, expected):
    objective = SCM(warmup=0.5, companion_lr=own)
    run = tiny.trainer(objective, optimizer="adam", lr=1e-2, lr_warmup=2, steps=5)
    run.fit(1)
    # Adam's first step is the learning rate, here in the middle of its warm-up.
    assert beside(run)["bias"].abs() == pytest.approx(expected / 2, rel=1e-4)
    assert run._update.optimizer.param_groups[0]["lr"] == 0.5e-2
    with pytest.raises(ValueError, match="companion_lr must be positive, got 0"):
        companion_rate(SCM(companion_lr=0.0))
    assert companion_rate(CTM()) is None


def test_averaging_factors():
    class Own(SCM):
        companion_betas = (0.5, 0.75)

    run = tiny.trainer(Own(warmup=0.5), steps=1)
    betas = {k: o.param_groups[0]["betas"] for k, o in run._update.optimizers.items()}
    assert betas == {"student": (0.9, 0.999), "companion": (0.5, 0.75)}
    Own.companion_betas = (0.5, 1.0)
    with pytest.raises(ValueError, match=r"companion_betas must be two numbers in \[0, 1\), got"):
        companion_betas(Own())
    assert companion_betas(CTM()) is None


def test_buffers_of_one_process_stay():
    module = torch.nn.BatchNorm1d(2)
    shared = SharedBuffers(World(), module)
    module(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    before = module.running_mean.clone()
    shared.average()
    assert torch.equal(module.running_mean, before)
    SharedBuffers(World(0, 2), None).average()


@pytest.mark.parametrize("microbatch", [3, 1])
def test_microbatch_size_does_not_change_the_run(microbatch):
    whole, split = (tiny.trainer(LEARNS, steps=3, microbatch=m) for m in (None, microbatch))
    whole.fit(), split.fit()
    for one, other in ((whole.student, split.student), (whole.models, split.models)):
        one, other = (getattr(m, "companion", m) for m in (one, other))
        for name, value in tiny.weights(one).items():
            torch.testing.assert_close(tiny.weights(other)[name], value, rtol=1e-4, atol=1e-6)


def test_clipping_and_health_see_its_gradient():
    run = tiny.trainer(LEARNS, steps=1)
    batch = run._feed(0, 0.0)
    run._gradients.prepare(0, batch, 0.0)
    numbers = run._gradients(0, batch, 0.0)
    weights = [*run.student.parameters(), *run.models.companion.parameters()]
    squares = [p.grad.square().sum() for p in weights if p.grad is not None]
    torch.testing.assert_close(numbers.total, torch.stack(squares).sum().sqrt())
    assert all(p.grad is not None for p in run.models.companion.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_resume_in_pieces_is_bit_exact(tmp_path, precision):
    options = dict(precision=precision, dropout=0.3, microbatch=4, steps=5, ema=(0.9,))
    tiny.trainer(LEARNS, out=tmp_path / "whole", **options).fit()

    often = dict(options, checkpoint_every=1, preview_every=1, out=tmp_path / "pieces")
    for last in (2, 4):

        def leave(run, step, last=last):
            if step == last:
                raise KeyError("left")

        with pytest.raises(KeyError, match="left"):
            tiny.trainer(LEARNS, callbacks=[leave], **often).fit()
    run = tiny.trainer(LEARNS, **often)
    assert run.step == 3
    run.fit()
    (a, header), (b, other) = content(newest(tmp_path / "whole")), content(newest(run.folder.path))
    assert header == other
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) for name in a)
    parts = {"companion/weight", "companion/bias", "companion/phases", "companion/frequencies"}
    moments = {
        f"companion_optimizer/{name}/{key}"
        for name in ("weight", "bias")
        for key in ("step", "exp_avg", "exp_avg_sq")
    }
    assert {name for name in a if name.startswith("companion")} == parts | moments
    for name, value in beside(run).items():
        assert torch.equal(value, a[f"companion/{name}"])


def test_a_checkpoint_without_it_does_not_fit(tmp_path):
    tiny.trainer(SCM(learned_weighting=False), out=tmp_path, steps=1).fit()
    with pytest.raises(ValueError, match="learned_weighting"):
        tiny.trainer(LEARNS, out=tmp_path, steps=2)


class Given(DSM):
    """DSM with any companion."""

    def __init__(self, made):
        super().__init__()
        object.__setattr__(self, "made", made)

    def companion(self, models):
        return self.made(models) if callable(self.made) else self.made


def test_refusals():
    student = tiny.denoiser()
    device = torch.device("cpu")
    for made, message in (
        (LearnedWeight(4).requires_grad_(False), "no weight that requires a gradient"),
        (student.net.levels, "shares weights"),
        (LearnedWeight(4).half(), "torch.float16"),
    ):
        objective = Given(lambda models, made=made: made)
        with pytest.raises(ValueError, match=message):
            companion_of(objective, Models(student), World(), device)
    assert companion_of(Given(lambda models: None), Models(student), World(), device) is None
    made = companion_of(
        Given(lambda models: LearnedWeight(4).eval()), Models(student), World(), device
    )
    assert made.training


def test_a_weak_network_is_frozen_and_part_of_the_run(tmp_path):
    weak, teacher = (tiny.denoiser(seed=s, destination=False) for s in (2, 1))
    objective = SCM(distil=True, guidance=1.5)
    options = dict(teacher=teacher, weak=weak, out=tmp_path, steps=1)
    run = tiny.trainer(objective, **options)
    assert run.models.weak is weak
    assert not weak.training
    assert not any(p.requires_grad for p in weak.parameters())
    run.fit()
    other = tiny.denoiser(seed=3, destination=False)
    with pytest.raises(ValueError, match="weak: checkpoint has"):
        tiny.trainer(objective, **{**options, "weak": other})
    with pytest.raises(ValueError, match="share weights"):
        tiny.trainer(weak=(student := tiny.denoiser()), student=student)
    assert tiny.trainer(steps=1).models.weak is None


def test_frozen_leaves_what_is_no_module():
    function = abs
    assert frozen(function, torch.device("cpu")) is function
