"""The process of another revision: one line in, one line out, nothing of an editable install."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.serve import forget_editable_installation

ROOT = Path(__file__).resolve().parents[2]


def test_lines_in_lines_out() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serve"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        input='{"do": "open", "device": "cpu", "threads": 1}\n{"do": "round"}\n',
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    opened, seconds = map(json.loads, done.stdout.splitlines())
    assert str(ROOT / "kernels" / "op.py") in opened["files"] and seconds == {"seconds": {}}


def test_only_the_finder_of_this_package_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = type("_EditableFinder", (), {"__module__": "__editable___ctm_fast_0_1_0_finder"})
    other = type("_EditableFinder", (), {"__module__": "__editable___torch_2_13_finder"})
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, ours, other])
    before = list(sys.meta_path)
    forget_editable_installation()
    kept = [f for f in before if "__editable___ctm_fast" not in getattr(f, "__module__", "")]
    assert sys.meta_path == kept and ours not in kept and other in kept
