"""Run folders: newest checkpoint, leftovers, one run at a time."""

import pytest

from ctm_fast.trainer.run_folder import RunFolder
from tests.trainer import tiny


def test_latest_is_found_by_name(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert folder.latest() is None
    folder.create()
    assert folder.latest() is None
    for name in ("step-00000002.safetensors", "step-00000010.safetensors"):
        (folder.checkpoints / name).touch()
    for name in ("step-00000099.safetensors.part", "step-x.safetensors", "other", ".tmp-step"):
        (folder.checkpoints / name).touch()
    assert folder.steps() == [2, 10]
    assert folder.latest() == folder.checkpoint(10)
    folder.lock().close()
    assert not (folder.checkpoints / ".tmp-step").exists()


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    held = RunFolder(tmp_path)
    held.create()
    with held.lock():
        run = tiny.trainer(out=tmp_path, steps=1)
        with pytest.raises(ValueError, match="another process is training in"):
            run.fit()
    assert run.fit().steps == 1


def test_steps_beyond_eight_digits_are_ordered_by_number(tmp_path):
    folder = RunFolder(tmp_path)
    folder.create()
    for step in (99_999_999, 100_000_000):
        folder.checkpoint(step).touch()
    assert folder.latest() == folder.checkpoint(100_000_000)
    folder.prune(1)
    assert folder.steps() == [100_000_000]


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(ValueError, match="not a folder"):
        tiny.trainer(out=tmp_path / "run")
