"""Saving and resuming: kept files, refusals, every process of the same mind."""

import os
import random
import signal
import time

import pytest
import torch
from safetensors import safe_open

from ctm_fast.checkpoints import DamagedCheckpoint
from ctm_fast.trainer import NonFiniteLoss
from tests.trainer import processes, tiny


def content(path):
    """(tensors, metadata) of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def assert_same(first, second):
    """Two checkpoints hold the same bits."""
    (a, header), (b, other) = content(first), content(second)
    assert header == other
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) for name in a)


def newest(folder):
    return max((folder / "checkpoints").glob("step-*"))


def test_killed_at_a_random_step_and_resumed_is_the_uninterrupted_run(tmp_path):
    tiny_run = dict(dropout=0.5, checkpoint_every=2, log_every=3, steps=9)
    tiny.trainer(out=tmp_path / "whole", **tiny_run).fit()
    broken, step = tmp_path / "broken", random.randrange(2, 6, 2)
    with processes.program("-m", "tests.trainer.worker", str(broken), "9", "0.05") as process:
        processes.wait_for_checkpoint(broken, step, process)
        time.sleep(random.random() * 0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=processes.LIMIT)
    assert not (broken / "checkpoints" / "step-00000009.safetensors").exists()
    resumed = tiny.trainer(out=broken, **tiny_run)
    assert 2 <= resumed.step < 9
    resumed.fit()
    assert_same(newest(tmp_path / "whole"), newest(broken))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_resume_in_pieces_is_bit_exact(tmp_path, precision):
    options = dict(precision=precision, dropout=0.3, microbatch=4, ema_halflife_kimg=(0.01,))
    tiny.trainer(out=tmp_path / "whole", **options).fit(5)
    for stop in (1, 2, 5):
        tiny.trainer(out=tmp_path / "pieces", **options).fit(stop)
    assert_same(newest(tmp_path / "whole"), newest(tmp_path / "pieces"))


def test_channels_last_weights_and_their_optimizer_state_keep_their_layout(tmp_path):
    students = [tiny.denoiser().to(memory_format=torch.channels_last) for _ in range(2)]
    tiny.trainer(student=students[0], out=tmp_path / "whole").fit(4)
    tiny.trainer(student=students[1], out=tmp_path / "pieces").fit(2)
    student = tiny.denoiser().to(memory_format=torch.channels_last)
    run = tiny.trainer(student=student, out=tmp_path / "pieces")
    weight = student.last_layer.weight
    assert weight.stride() == students[0].last_layer.weight.stride() != (72, 9, 3, 1)
    assert run._update.optimizer.state[weight]["exp_avg"].stride() == weight.stride()
    run.fit(4)
    assert_same(newest(tmp_path / "whole"), newest(tmp_path / "pieces"))


def test_a_checkpoint_is_complete(tmp_path):
    tiny.trainer(out=tmp_path, ema=(0.5, 0.9)).fit(2)
    tensors, metadata = content(newest(tmp_path))
    parts = {name.split("/net.")[0] for name in tensors if "/net." in name}
    assert parts == {"student", "target", "ema/0", "ema/1", "optimizer"}
    assert {name.rsplit("/", 1)[1] for name in tensors if name.startswith("optimizer/")} == {
        *("step", "exp_avg", "exp_avg_sq")
    }
    assert metadata is not None
    run = tiny.trainer(out=tmp_path, ema=(0.5, 0.9))
    assert float(run._update.optimizer.state[run._update.parameters[0]]["step"]) == 2


def test_the_newest_are_kept_and_the_rest_deleted(tmp_path):
    tiny.trainer(out=tmp_path, checkpoint_every=1, keep=3).fit(6)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [f"step-{step:08d}.safetensors" for step in (4, 5, 6)]


def spoil(path, how):
    """Damage a file at one of several places."""
    data = bytearray(path.read_bytes())
    kind, where = how
    at = min(int(len(data) * where), len(data) - 1)
    if kind == "truncate":
        data = data[:at]
    elif kind == "flip":
        data[at] ^= 0x10
    else:
        data += b"\0" * 16
    path.write_bytes(data)


DAMAGES = [("truncate", where) for where in (0.0, 1e-3, 0.05, 0.5, 0.999)]
DAMAGES += [("flip", where) for where in (0.0, 1e-4, 0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 1.0)]
DAMAGES += [("append", 0.0)]


@pytest.mark.parametrize("how", DAMAGES, ids=lambda how: f"{how[0]}-{how[1]}")
def test_a_damaged_checkpoint_is_named_and_never_skipped(tmp_path, how):
    tiny.trainer(out=tmp_path, checkpoint_every=1).fit(2)
    spoil(newest(tmp_path), how)
    before = newest(tmp_path).read_bytes()
    with pytest.raises(ValueError, match=r"step-00000002\.safetensors") as caught:
        tiny.trainer(out=tmp_path)
    assert isinstance(caught.value, DamagedCheckpoint)
    assert "continue from step 1" in str(caught.value)
    assert newest(tmp_path).read_bytes() == before
    newest(tmp_path).unlink()
    assert tiny.trainer(out=tmp_path).step == 1


def test_a_run_with_other_settings_is_refused_by_field(tmp_path):
    tiny.trainer(out=tmp_path, lr=1e-2).fit(1)
    with pytest.raises(ValueError, match=r"train\.lr: checkpoint has 0\.01, this run has 0\.5"):
        tiny.trainer(out=tmp_path, lr=0.5)
    with pytest.raises(ValueError, match=r"data\.images: checkpoint has 24, this run has 20"):
        tiny.trainer(out=tmp_path, data=tiny.dataset(20))
    with pytest.raises(ValueError, match="teacher"):
        tiny.trainer(out=tmp_path, teacher=tiny.denoiser(seed=2, destination=False))
    with pytest.raises(ValueError, match="objective"):
        tiny.trainer(tiny.CTM(num_scales=5), out=tmp_path)
    free = dict(microbatch=2, steps=7, log_every=1, keep=1, checkpoint_every=3, preview_every=2)
    assert tiny.trainer(out=tmp_path, **free).step == 1


def test_another_network_is_refused(tmp_path):
    tiny.trainer(tiny.DSM(), out=tmp_path).fit(1)
    student = tiny.denoiser()
    student.net.levels = torch.nn.Linear(2, 8, bias=False)
    with pytest.raises(DamagedCheckpoint, match=r"student/net\.levels\.bias has no place"):
        tiny.trainer(tiny.DSM(), student=student, out=tmp_path)


def test_a_failed_write_keeps_the_one_before(tmp_path, monkeypatch):
    run = tiny.trainer(out=tmp_path, checkpoint_every=1, keep=1)
    run.fit(1)

    def full(*arguments, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr("ctm_fast.checkpoints.files.save_file", full)
    with pytest.raises(OSError, match="no space"):
        run.fit(2)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [
        "step-00000001.safetensors"
    ]
    assert tiny.trainer(out=tmp_path).step == 1


def test_leftovers_of_a_killed_write_are_removed(tmp_path):
    tiny.trainer(out=tmp_path).fit(1)
    leftover = tmp_path / "checkpoints" / ".tmp-step-00000002.safetensors-0123abcd"
    leftover.write_bytes(b"half")
    assert tiny.trainer(out=tmp_path).fit(2).steps == 2
    assert not leftover.exists()


def test_saving_twice_writes_once(tmp_path):
    run = tiny.trainer(out=tmp_path)
    run.fit(1)
    before = newest(tmp_path).stat().st_mtime_ns
    assert run.save() == newest(tmp_path)
    assert newest(tmp_path).stat().st_mtime_ns == before
    assert tiny.trainer().save() is None
    assert issubclass(NonFiniteLoss, RuntimeError)
