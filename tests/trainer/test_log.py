"""The log and its window: means, resume, lines cut off by a kill."""

import json

import torch

from ctm_fast.trainer.log import Clock, Log, Window, peak_memory
from tests.trainer import tiny

TIMES = ("sec_per_kimg", "peak_memory_mib")


def lines(folder):
    """Log entries without what depends on the machine."""
    text = (folder / "log.jsonl").read_text()
    entries = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in entry.items() if k not in TIMES} for entry in entries]


def test_entries_of_a_run(tmp_path):
    tiny.trainer(out=tmp_path, steps=5, lr_warmup=4).fit()
    entries = lines(tmp_path)
    assert [entry["step"] for entry in entries] == [2, 4]
    assert [entry["images"] for entry in entries] == [16, 32]
    assert entries[0]["lr"] == 1e-2 * 2 / 4
    for key in ("loss", "weight", "term_grad_norm"):
        assert set(entries[0][key]) == {"ctm", "dsm"}
    whole = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert all(whole[key] > 0 for key in TIMES)


def test_a_resumed_run_writes_the_same_lines(tmp_path):
    tiny.trainer(out=tmp_path / "whole", steps=8, log_every=3).fit()
    tiny.trainer(out=tmp_path / "pieces", steps=8, log_every=3).fit(4)
    pieces = tmp_path / "pieces" / "log.jsonl"
    extra = {"step": 6, "loss": "of a run that was killed before it saved"}
    pieces.write_text(pieces.read_text() + json.dumps(extra) + '\n{"step": 7, "los')
    tiny.trainer(out=tmp_path / "pieces", steps=8, log_every=3).fit(8)
    assert lines(tmp_path / "pieces") == lines(tmp_path / "whole")


def test_nothing_is_written_without_a_folder():
    log = Log(None)
    log.cut(0)
    log.write({"step": 1})


def test_fp16_logs_its_scale(tmp_path):
    run = tiny.trainer(out=tmp_path, steps=2, precision="fp16")
    run.fit()
    assert lines(tmp_path)[0]["loss_scale"] == run._update.scale > 1


def test_window_continues():
    window = Window(("a",))
    window.add([1.0, 1.0, 2.0, 4.0])
    other = Window(("a",))
    other.restore(json.loads(json.dumps(window.to_json())))
    other.add([3.0, 1.0, 2.0, 4.0])
    assert other.means()["loss"] == {"a": 2.0}
    other.reset()
    assert other.means()["grad_norm"] == 0.0


def test_clock_and_memory():
    clock = Clock()
    clock.started -= 2.0
    clock.add(500)
    assert 4.0 <= clock.restart() < 6.0
    assert peak_memory(torch.device("cpu")) > 10
