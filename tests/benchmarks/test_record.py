"""Result files: what a line holds, and how files are read back."""

import json
from dataclasses import replace

import pytest

from benchmarks.machine import facts
from benchmarks.record import FIELDS, Record, geometric_mean, read

RECORD = Record(
    op="jump",
    case="shape (2, 3), dtype float32",
    mode="forward",
    variant="torch",
    kind="ours",
    status="ok",
    note="",
    auto=True,
    shape=(2, 3),
    dtype="float32",
    options={"shape": [2, 3]},
    rounds=3,
    median=1e-3,
    quartiles=(0.9e-3, 1.2e-3),
    bytes=100,
    bandwidth=1e5,
)
PROMISED = {
    *("machine", "cpu", "gpu", "driver", "cuda", "torch", "triton", "python", "threads"),
    *("date", "commit", "dirty", "op", "case", "mode", "variant", "dtype", "shape"),
    *("median", "quartiles", "ratio", "ratio_to_rival", "ratio_to_base", "host"),
    *("bytes", "bandwidth", "copy_bandwidth", "status", "note", "base"),
}


def test_a_line_holds_everything_and_is_read_back(tmp_path) -> None:
    about = facts("cpu")
    line = RECORD.to_json(about)
    assert set(json.loads(line)) >= PROMISED
    assert not FIELDS & set(about), "a fact of the machine would hide a field"
    file = tmp_path / "a.jsonl"
    file.write_text(line + "\n" + replace(RECORD, variant="eager").to_json(about) + "\n")
    found, records = read(file)
    assert found == json.loads(json.dumps(about))
    assert [r.variant for r in records] == ["torch", "eager"]
    assert records[0].median == RECORD.median and records[0].key == RECORD.key


def test_the_last_line_of_a_variant_counts(tmp_path) -> None:
    file = tmp_path / "a.jsonl"
    lines = [replace(RECORD, median=m).to_json({"commit": str(m)}) for m in (1.0, 2.0)]
    file.write_text("\n".join(lines))
    about, (record,) = read(file)
    assert record.median == 2.0 and about == {"commit": "2.0"}


@pytest.mark.parametrize("text", ["no json", "[1, 2]", '{"op": "jump"}'])
def test_other_files_are_refused(tmp_path, text: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(text)
    with pytest.raises(ValueError, match="line 1 is not a result"):
        read(file)
    with pytest.raises(ValueError, match="cannot read"):
        read(tmp_path / "b.jsonl")


def test_share_of_a_copy_and_geometric_mean() -> None:
    assert RECORD.share is None
    assert replace(RECORD, copy_bandwidth=2e5).share == 0.5
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
