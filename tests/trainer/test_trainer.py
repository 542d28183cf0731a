"""The trainer as a whole: steps, resume, precision, callbacks."""

import pytest
import torch

from ctm_fast import models
from ctm_fast.denoiser import Denoiser
from ctm_fast.inference.freeze import freeze
from ctm_fast.losses import CTM, DSM
from ctm_fast.precond import EDM, Preconditioning
from ctm_fast.trainer import Trainer
from tests.trainer import tiny


def test_summary_and_progress():
    run = tiny.trainer(steps=4)
    summary = run.fit()
    assert (summary.steps, summary.images, summary.checkpoint) == (4, 32, None)
    assert set(summary.loss) == {"ctm", "dsm"}
    assert summary.seconds > 0
    assert run.images_seen == 32


def test_fit_counts_all_steps():
    run = tiny.trainer(steps=2)
    run.fit()
    assert run.fit().steps == 2
    assert run.fit(3).steps == 3


def test_training_reduces_the_loss():
    run = tiny.trainer(DSM(), steps=300, log_every=50, lr=3e-2, optimizer="adam", batch_size=24)
    first = run.fit(50).loss["dsm"]
    assert run.fit(300).loss["dsm"] < 0.95 * first


@pytest.mark.parametrize("microbatch", [4, 3, 1])
def test_microbatch_size_does_not_change_the_run(microbatch):
    whole, split = tiny.trainer(steps=3), tiny.trainer(steps=3, microbatch=microbatch)
    whole.fit(), split.fit()
    for name, value in tiny.weights(whole.ema).items():
        torch.testing.assert_close(split.ema.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_only_what_the_objective_needs_is_built():
    assert tiny.trainer(DSM()).models.target is None
    models = tiny.trainer().models
    assert models.target is not None
    assert models.target is not models.student
    assert not any(weight.requires_grad for weight in models.target.parameters())
    assert not any(weight.requires_grad for weight in models.teacher.parameters())
    assert models.student.training
    assert not models.teacher.training


def test_precision_sets_the_compute_dtype_and_leaves_the_teacher():
    run = tiny.trainer(precision="bf16", steps=2)
    assert run.student.dtype == run.models.target.dtype == run.ema.dtype == torch.bfloat16
    assert run.teacher.dtype is None
    assert {weight.dtype for weight in run.student.parameters()} == {torch.float32}
    full = tiny.trainer(steps=2)
    run.fit(), full.fit()
    start, half = tiny.weights(tiny.denoiser()), tiny.weights(run.student)
    for name, value in tiny.weights(full.student).items():
        if "scale" not in name:
            assert not torch.equal(half[name], value)
            assert (half[name] - value).norm() < 0.5 * (value - start[name]).norm()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_frozen_teacher_is_used_as_it_is(tmp_path, dtype):
    small = dict(model_channels=16, channel_mult=(1, 1))
    teacher = Denoiser(models.build("digits", **small), Preconditioning(EDM(0.752)))
    frozen = freeze(teacher, dtype)
    options = dict(data="digits", batch_size=4, microbatch=2, steps=2, progress_bar=False)
    losses = {}
    for name, given in (("plain", teacher), ("frozen", frozen)):
        student = models.student_from(teacher)
        run = Trainer(CTM(num_scales=6), student, teacher=given, out=tmp_path / name, **options)
        losses[name] = run.fit().loss
        assert run.models.teacher is given
    assert {p.dtype for p in frozen.parameters()} == {dtype or torch.float32}
    tolerance = 0.1 if dtype else 1e-3
    for term, value in losses["plain"].items():
        assert losses["frozen"][term] == pytest.approx(value, rel=tolerance)


def test_without_averages_the_student_is_the_model():
    run = tiny.trainer(ema=())
    assert run.ema is run.student
    assert run.emas == []


def test_callbacks_are_called_on_time_and_at_the_end():
    calls = []
    options = dict(callbacks=[lambda trainer, step: calls.append((trainer.step, step))])
    tiny.trainer(steps=5, preview_every=2, **options).fit()
    assert calls == [(2, 2), (4, 4), (5, 5)]
    calls.clear()
    run = tiny.trainer(steps=2, **options)
    run.fit(), run.fit()
    assert calls == [(2, 2)]


def test_the_global_random_state_is_left_alone():
    student = tiny.denoiser(dropout=0.5)
    teacher = tiny.denoiser(destination=False)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    tiny.trainer(student=student, teacher=teacher, steps=2).fit()
    assert torch.equal(before, torch.get_rng_state())


def test_unknown_options_are_an_error():
    with pytest.raises(ValueError, match="batchsize"):
        tiny.trainer(batchsize=4)


def test_progress_bar_shows_the_loss(capsys):
    tiny.trainer(steps=2, progress_bar=True).fit()
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "dsm=" in shown


def test_digits_with_real_networks(tmp_path):
    net = models.build("digits", model_channels=8, channel_mult=(1, 1), dropout=0.1)
    teacher = Denoiser(net, Preconditioning(EDM(0.752)))
    options = dict(data="digits", batch_size=8, microbatch=4, progress_bar=False)
    pretrained = Trainer(DSM(), teacher, steps=3, out=tmp_path / "teacher", **options)
    pretrained.fit()
    student = models.student_from(pretrained.ema)
    run = Trainer(
        CTM(),
        student,
        teacher=pretrained.ema,
        out=tmp_path / "ctm",
        steps=2,
        log_every=1,
        **options,
    )
    summary = run.fit()
    assert all(value > 0 for value in summary.loss.values())
    again = Trainer(
        CTM(), models.student_from(pretrained.ema), teacher=pretrained.ema, out=tmp_path / "ctm",
        **options,
    )  # fmt: skip
    assert again.step == 2
    assert all(
        torch.equal(a, b) for a, b in zip(again.ema.parameters(), run.ema.parameters(), strict=True)
    )
