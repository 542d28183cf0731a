"""Steps that train the student and steps that train its discriminator, in the whole trainer."""

import os
import signal

import pytest
import torch
from safetensors import safe_open

from ctm_fast.losses import CTM, CTMGAN, GAN
from ctm_fast.models.feature_nets import TeacherEncoder
from ctm_fast.trainer.captured import check_capture
from ctm_fast.trainer.distributed import World
from tests.trainer import processes, tiny, worker
from tests.trainer.adversary import adversarial
from tests.trainer.test_log import lines


def content(folder):
    path = max((folder / "checkpoints").glob("step-*"))
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def moved(before, after):
    """Names of the tensors that changed."""
    return {name for name, value in after.items() if not torch.equal(before[name], value)}


def snapshot(run):
    models = run.models
    parts = {"student": models.student, "heads": models.companion, "target": models.target}
    parts |= {f"ema{i}": model for i, model in enumerate(run.emas)}
    weights = {k: dict(tiny.weights(model)) for k, model in parts.items()}
    for name, optimizer in run._update.optimizers.items():
        weights[f"{name} optimizer"] = {
            f"{i}/{key}": value.clone()
            for i, state in enumerate(optimizer.state.values())
            for key, value in state.items()
        }
    return weights


@pytest.mark.parametrize(("start", "period"), [(0, 2), (0, 3), (3, 2)])
def test_each_step_moves_its_part_and_nothing_else(start, period):
    objective = adversarial(start=start, period=period)
    run = tiny.trainer(objective, steps=8, ema=(0.9, 0.5))
    calls = []
    run.teacher.net.register_forward_pre_hook(lambda *_: calls.append(1))
    for step in range(8):
        before = snapshot(run)
        calls.clear()
        run.fit(step + 1)
        after = snapshot(run)
        changed = {part for part in after if set(before[part]) != set(after[part])}
        changed |= {p for p in after if p not in changed and moved(before[p], after[p])}
        if objective.gan.generates(step):
            assert changed == {"student", "target", "ema0", "ema1", "student optimizer"}
            assert len(calls) > 0
        else:
            assert changed == {"heads", "companion optimizer"}
            assert calls == [], "the teacher is not asked"
            names = moved(before["heads"], after["heads"])
            assert "projection" not in names
            assert {"layers.1.running_mean", "layers.1.num_batches_tracked"} <= names
            assert any("parametrizations.weight.0._u" in name for name in names)


def test_averages_follow_the_students_steps_in_closed_form():
    run = tiny.trainer(adversarial(), steps=4, ema=(0.75,), target_ema=0.5)
    name = "net.last_layer.weight"
    first = run.student.state_dict()[name].clone()
    seen = []
    for step in range(4):
        run.fit(step + 1)
        seen.append(run.student.state_dict()[name].clone())
    assert torch.equal(seen[0], seen[1])
    for decay, model in ((0.75, run.ema), (0.5, run.models.target)):
        expected = first
        for weight in (seen[0], seen[2]):
            expected = decay * expected + (1 - decay) * weight
        torch.testing.assert_close(model.state_dict()[name], expected, rtol=1e-5, atol=1e-6)


def test_the_discriminator_has_its_own_optimizer():
    objective = adversarial(lr=0.25, betas=(0.25, 0.75))
    run = tiny.trainer(objective, optimizer="adam", lr=1e-2, lr_warmup=4, steps=3)
    before = tiny.weights(run.models.companion)
    run.fit()
    (group,) = run._update.optimizers["companion"].param_groups
    assert group["betas"] == (0.25, 0.75)
    assert run._update.optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    # Adam's first step is the learning rate, here that of the second step of the warm-up.
    change = (
        tiny.weights(run.models.companion)["layers.3.weight"] - before["layers.3.weight"]
    ).abs()
    assert change.max() == pytest.approx(0.25 / 2, rel=1e-3)
    steps = {int(s["step"]) for s in run._update.optimizers["companion"].state.values()}
    assert steps == {1}


def test_the_log_means_are_over_the_steps_of_a_term(tmp_path):
    run = tiny.trainer(adversarial(start=2), out=tmp_path, steps=6, log_every=1)
    run.fit()
    single = lines(tmp_path)
    both, late = {"ctm", "dsm"}, {"ctm", "dsm", "gan"}
    terms = [set(entry["loss"]) for entry in single]
    assert terms == [both, both, late, {"discriminator"}, late, {"discriminator"}]
    assert single[3]["grad_norm"] == 0.0, "no student moved"
    tiny.trainer(adversarial(start=2), out=tmp_path / "all", steps=6, log_every=6).fit()
    (whole,) = lines(tmp_path / "all")
    for key in ("loss", "weight", "term_grad_norm"):
        for term in ("ctm", "dsm", "gan", "discriminator"):
            found = [entry[key][term] for entry in single if term in entry[key]]
            assert whole[key][term] == pytest.approx(sum(found) / len(found), rel=1e-5)
    norms = [entry["grad_norm"] for entry in single if "ctm" in entry["loss"]]
    assert whole["grad_norm"] == pytest.approx(sum(norms) / 4, rel=1e-5)
    assert 0.01 <= whole["weight"]["gan"] <= 10


def test_until_the_start_it_is_ctm(tmp_path):
    plain, late = tiny.trainer(CTM(num_scales=4)), tiny.trainer(adversarial(start=9))
    plain.fit(4), late.fit(4)
    for name, value in tiny.weights(plain.ema).items():
        assert torch.equal(late.ema.state_dict()[name], value)
    # Or a run begins with the model of an earlier one.
    after = tiny.trainer(adversarial(), student=plain.student, steps=2)
    after.fit()
    assert after.step == 2
    assert set(after.fit(4).loss) == {"ctm", "dsm", "gan", "discriminator"}


def test_the_summary_has_every_terms_last_mean():
    run = tiny.trainer(adversarial(), steps=4, log_every=1)
    assert set(run.fit().loss) == {"ctm", "dsm", "gan", "discriminator"}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_resume_in_pieces_is_bit_exact(tmp_path, precision):
    options = dict(precision=precision, dropout=0.3, microbatch=4, steps=7, ema=(0.9,))
    objective = adversarial(start=2)
    tiny.trainer(objective, out=tmp_path / "whole", **options).fit()
    for last in range(1, 8):  # at every phase, also before the discriminator's first step
        run = tiny.trainer(objective, out=tmp_path / "pieces", **options)
        assert run.step == last - 1
        run.fit(last)
    (a, header), (b, other) = content(tmp_path / "whole"), content(tmp_path / "pieces")
    assert header == other
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) for name in a)
    saved = {name for name in a if name.startswith("companion/")}
    assert {"companion/projection", "companion/layers.1.running_var"} <= saved
    assert any(name.endswith("_u") for name in saved)
    assert "companion_optimizer/layers.3.weight/exp_avg" in a


def test_a_run_killed_among_its_phases_resumes_bit_exactly(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = ("-m", "tests.trainer.worker", str(killed), "400", "0.01", "gan")
    with processes.program(*command) as process:
        processes.wait_for_checkpoint(killed, 6, process)
        os.kill(process.pid, signal.SIGKILL)
    left = max(int(path.stem[5:]) for path in (killed / "checkpoints").glob("step-*"))
    for folder in (killed, whole):
        worker.run(folder, left + 3, gan=True)
    (a, header), (b, other) = content(killed), content(whole)
    assert header == other
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert lines(killed) == lines(whole)


@pytest.mark.parametrize("fake", ["estimate", "direct"])
def test_microbatch_size_does_not_change_a_run_without_batch_statistics(fake):
    objective = adversarial(norm=False, fake=fake)
    whole, split = (tiny.trainer(objective, steps=4, microbatch=m) for m in (None, 3))
    whole.fit(), split.fit()
    for one, other in ((whole.ema, split.ema), (whole.models.companion, split.models.companion)):
        for name, value in tiny.weights(one).items():
            torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fake", ["estimate", "direct"])
def test_one_pass_does_the_same(fake):
    objective = adversarial(fake=fake)
    turns, once = (tiny.trainer(objective, steps=4, one_pass=o) for o in (False, True))
    turns.fit(), once.fit()
    for one, other in ((turns.ema, once.ema), (turns.models.companion, once.models.companion)):
        for name, value in tiny.weights(one).items():
            torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    one, other = turns._monitor.window, once._monitor.window
    assert one.counts == other.counts
    means = zip(one.means()["weight"].items(), other.means()["weight"].items(), strict=True)
    for (term, weight), (same, found) in means:
        assert term == same
        assert found == pytest.approx(weight, rel=1e-3)


def test_capture_is_refused_with_a_reason():
    with pytest.raises(ValueError, match="capture=False"):
        check_capture(adversarial(), World())


def test_the_projected_discriminator_on_the_teachers_encoder(tmp_path):
    objective = CTMGAN(num_scales=4, gan=GAN(backbones=(TeacherEncoder(width=4),)))
    options = dict(steps=4, microbatch=4, log_every=1)
    tiny.trainer(objective, out=tmp_path / "whole", **options).fit()
    for last in (1, 2, 3, 4):
        run = tiny.trainer(objective, out=tmp_path / "pieces", **options)
        run.fit(last)
    (a, _), (b, _) = content(tmp_path / "whole"), content(tmp_path / "pieces")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any("projector" in name for name in a)
    teacher = set(run.teacher.state_dict())
    assert not any(name.removeprefix("companion/") in teacher for name in a)
    with pytest.raises(ValueError, match=r"objective.gan.seed: checkpoint has 0"):
        other = CTMGAN(num_scales=4, gan=GAN(backbones=(TeacherEncoder(width=4),), seed=1))
        tiny.trainer(other, out=tmp_path / "whole", **options)


@pytest.mark.parametrize(("one_pass", "images"), [(False, 3), (True, 2)])
def test_images_through_the_student(one_pass, images):
    run = tiny.trainer(adversarial(), steps=2, one_pass=one_pass)
    seen = {True: 0, False: 0}

    def count(_, given):
        seen[torch.is_grad_enabled()] += len(given[0])

    run.student.net.register_forward_pre_hook(count)
    run.fit(1)
    # CTM, DSM and the adversarial term apart; with one pass the first and the last share a call.
    assert seen[True] == images * 8
    seen[True] = seen[False] = 0
    run.fit(2)
    assert seen == {True: 0, False: 8}
