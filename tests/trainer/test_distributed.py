"""Two processes equal one with the double batch; agreement between processes."""

import json

import pytest
import torch
from safetensors.torch import load_file

from ctm_fast.losses import SCM, SCT
from ctm_fast.trainer import World
from ctm_fast.trainer.distributed import check_same, from_first, raise_together, start
from tests.trainer import processes, tiny
from tests.trainer.adversary import Adversarial
from tests.trainer.ddp_worker import RUN


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Folder with the results of `ddp_worker` on two processes under torchrun."""
    out = tmp_path_factory.mktemp("two_processes")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    with processes.program(*launcher, "-m", "tests.trainer.ddp_worker", str(out)) as process:
        status, output = processes.finished(process)
    assert status == 0, output
    return out


def results(out, check):
    return [(out / f"{check}-{rank}.txt").read_text() for rank in (0, 1)]


def test_two_processes_do_what_one_does_with_the_whole_batch(two_processes, tmp_path):
    assert results(two_processes, "same_as_one_process") == ["ok", "ok"]
    run = tiny.trainer(**RUN, out=tmp_path)
    run.fit()
    first, second = (load_file(two_processes / f"weights-{rank}.safetensors") for rank in (0, 1))
    for name, value in tiny.weights(run.ema).items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-6)
    logs = [folder / "log.jsonl" for folder in (two_processes / "two", tmp_path)]
    two, one = ([json.loads(line) for line in path.read_text().splitlines()] for path in logs)
    assert [entry["step"] for entry in two] == [1, 2, 3, 4]
    for own, other in zip(one, two):
        for key in ("loss", "weight", "term_grad_norm"):
            assert other[key] == pytest.approx(own[key], rel=1e-4)


def test_two_processes_in_one_pass(two_processes):
    assert results(two_processes, "in_one_pass") == ["ok", "ok"]
    run = tiny.trainer(batch_size=8, steps=3)
    run.fit()
    first, second = (load_file(two_processes / f"one-pass-{rank}.safetensors") for rank in (0, 1))
    for name, value in tiny.weights(run.ema).items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-6)


def test_two_processes_with_a_derivative_in_the_loss(two_processes):
    assert results(two_processes, "through_a_derivative") == ["ok", "ok"]
    run = tiny.trainer(tiny.FLOW_MAP, **RUN)
    run.fit()
    first, second = (load_file(two_processes / f"derivative-{rank}.safetensors") for rank in (0, 1))
    for name, value in tiny.weights(run.ema).items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-6)


def test_two_processes_train_a_companion(two_processes):
    assert results(two_processes, "with_companion") == ["ok", "ok"]
    run = tiny.trainer(SCM(warmup=0.5), **RUN)
    run.fit()
    first, second = (load_file(two_processes / f"companion-{rank}.safetensors") for rank in (0, 1))
    found = {**tiny.weights(run.student), **tiny.weights(run.models.companion)}
    assert set(found) == set(first)
    assert first["weight"].abs().max() > 0
    for name, value in found.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-6)


def test_two_processes_share_one_discriminator(two_processes):
    assert results(two_processes, "with_discriminator") == ["ok", "ok"]
    found = {
        name: [load_file(two_processes / f"gan-{name}-{rank}.safetensors") for rank in (0, 1)]
        for name in ("plain", "one-pass", "norm", "resumed")
    }
    for first, second in found.values():
        assert all(torch.equal(second[name], value) for name, value in first.items())
    assert {"heads/layers.1.running_mean", "heads/layers.0.parametrizations.weight.0._u"} <= set(
        found["norm"][0]
    )
    # The probe for unused weights, which a resumed run makes again, leaves the buffers alone.
    for name, value in found["norm"][0].items():
        assert torch.equal(found["resumed"][0][name], value), name

    class Own(Adversarial):
        def companion(self, models):
            made = super().companion(models)
            torch.nn.init.constant_(made.layers[-1].weight, 0.1)
            return made

    run = tiny.trainer(Own(num_scales=4, norm=False), **RUN)
    run.fit(4)
    heads = run.models.companion
    expected = {f"ema/{k}": v for k, v in tiny.weights(run.ema).items()}
    expected |= {f"heads/{k}": v for k, v in tiny.weights(heads).items()}
    expected |= {f"gradient/{k}": p.grad for k, p in heads.named_parameters()}
    for name in ("plain", "one-pass"):
        assert set(found[name][0]) == set(expected)
        for key, value in expected.items():
            torch.testing.assert_close(found[name][0][key], value, rtol=1e-4, atol=1e-5)


def test_running_statistics_are_averaged_and_what_is_frozen_is_not(two_processes):
    assert results(two_processes, "shared_buffers") == ["ok", "ok"]
    first, second = (load_file(two_processes / f"buffers-{rank}.safetensors") for rank in (0, 1))
    # Process r saw r + 1 and r + 3, twice: the mean of means 2 and 3, of equal variances.
    step = torch.nn.BatchNorm1d(1)
    for _ in range(2):
        step(torch.tensor([[1.5], [3.5]]))
    for name in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"):
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], step.state_dict()[name.removeprefix("norm.")])
    assert (first["frozen"].item(), second["frozen"].item()) == (0, 1)


def test_two_processes_resume(two_processes):
    assert results(two_processes, "resumed") == ["ok", "ok"]
    names = sorted(path.name for path in (two_processes / "two" / "checkpoints").iterdir())
    assert names == ["step-00000003.safetensors", "step-00000004.safetensors"]


def test_configurations_have_to_agree(two_processes):
    for text in results(two_processes, "different_configuration"):
        assert text.startswith("ValueError: the run's configuration differs between processes")
        assert text.splitlines()[1:] == ["  train.lr: process 0 has 0.01, process 1 has 0.02"]


def test_a_bad_loss_on_one_process_stops_all(two_processes):
    for text in results(two_processes, "bad_loss"):
        assert text.startswith("NonFiniteLoss: the loss of 'dsm' at step 3")


def test_an_error_on_the_first_process_stops_all(two_processes):
    first, second = results(two_processes, "disk_full")
    assert first.startswith("ValueError: cannot make the run folder")
    assert second.startswith("RuntimeError: process 0 stopped: ValueError: cannot make")
    first, second = results(two_processes, "failing_callback")
    assert first == "KeyError: 'preview'"
    assert "process 0 stopped: KeyError: 'preview'" in second


def test_a_signal_to_one_process_stops_all_at_the_same_step(two_processes):
    assert results(two_processes, "stopped") == ["SystemExit: 143"] * 2
    checkpoints = list((two_processes / "stopped" / "checkpoints").iterdir())
    assert len(checkpoints) == 1
    assert checkpoints[0].name in ("step-00000051.safetensors", "step-00000052.safetensors")


def test_one_process_needs_no_launcher(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert start() == World(0, 1)
    assert World().first
    assert from_first(World(), 5) == 5
    check_same(World(), "anything", object())
    raise_together(World(), None)
    with pytest.raises(KeyError):
        raise_together(World(), KeyError("own"))


def test_diagnostics_are_means_over_the_processes(two_processes, tmp_path):
    assert results(two_processes, "diagnosed") == ["ok", "ok"]
    tiny.trainer(SCT(), out=tmp_path, **{**RUN, "steps": 2}).fit()
    logs = [folder / "log.jsonl" for folder in (two_processes / "ess", tmp_path)]
    two, one = ([json.loads(line) for line in path.read_text().splitlines()] for path in logs)
    found = [[line["diagnostics"]["ess"] for line in each] for each in (two, one)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert min(found[1]) > 1


def test_an_alarm_ends_the_run_on_every_process(two_processes):
    first, second = results(two_processes, "alarmed")
    assert first == second
    assert first.startswith("Alarmed: stopped after step 4: divergence of dsm")
