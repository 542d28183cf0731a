"""The log and its window: means, resume, lines cut off by a kill."""

import json

import pytest
import torch

from ctm_fast.trainer.log import Log, Window, memory
from tests.trainer import tiny

TIMES = ("sec_per_kimg", "images_per_s", "teacher_evals_per_s", "share", "peak_memory_mib")
TIMES += ("no_power",)


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
    assert all(whole[key] > 0 for key in TIMES if key not in ("share", "no_power"))


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


def test_a_mean_is_over_the_steps_of_its_term():
    window = Window(("a", "b"))
    # Losses, weights, gradient norms, total norm.
    window.add([1.0, 0.0, 1.0, 1.0, 2.0, 0.0, 2.0], (True, False))
    window.add([0.0, 5.0, 1.0, 0.5, 0.0, 3.0, 3.0], (False, True))
    window.add([3.0, 0.0, 1.0, 1.0, 4.0, 0.0, 4.0], (True, False))
    means = {
        "loss": {"a": 2.0, "b": 5.0},
        "weight": {"a": 1.0, "b": 0.5},
        "term_grad_norm": {"a": 3.0, "b": 3.0},
        "grad_norm": 3.0,
    }
    assert window.means() == means
    other = Window(("a", "b"))
    other.restore(json.loads(json.dumps(window.to_json())))
    assert other.means() == means
    window.reset()
    window.add([1.0, 0.0, 1.0, 1.0, 2.0, 0.0, 2.0], (True, False))
    assert window.means()["loss"] == {"a": 1.0}, "no number where a term took no part"
    # A checkpoint that knows one count for all terms.
    other.restore({"steps": 2, "sums": [2.0, 4.0, 2.0, 2.0, 6.0, 8.0, 10.0]})
    assert other.means()["loss"] == {"a": 1.0, "b": 2.0}


def test_a_diagnostic_is_a_mean_over_the_steps_that_have_it():
    window = Window(("a",), ("ess", "other"))
    for value in (2.0, float("nan"), 4.0, float("inf")):
        window.diagnose([value, float("nan")])
    assert window.means()["diagnostics"] == {"ess": 3.0}
    kept = json.loads(json.dumps(window.to_json()))
    other = Window(("a",), ("ess", "other"))
    other.restore(kept)
    other.diagnose([6.0, 1.0])
    assert other.means()["diagnostics"] == {"ess": 4.0, "other": 1.0}
    other.reset()
    assert "diagnostics" not in other.means()
    plain = Window(("a",))
    plain.restore(kept)
    assert "diagnostics" not in plain.means() and "diagnostics" not in plain.to_json()


def test_entries(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    assert log.entries() == Log(None).entries() == []
    for step in (1, 2, 3):
        log.write({"step": step})
    log.cut(2)
    assert log.entries() == [{"step": 1}, {"step": 2}]


def test_memory():
    found = memory(torch.device("cpu"))
    assert set(found) == {"peak_memory_mib"} and found["peak_memory_mib"] > 10


@pytest.mark.gpu
def test_memory_of_a_gpu():
    kept = torch.zeros(2**20, device="cuda")
    found = memory(kept.device)
    assert found["peak_reserved_mib"] >= found["peak_memory_mib"] >= found["memory_mib"] >= 4
