"""`pytest benchmarks` runs the same cases through pytest-benchmark; the normal run does not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_one_case_through_pytest_benchmark(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark", reason="of the extras `test` and `bench`")
    file = tmp_path / "a.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "benchmarks"),
            *("--benchmark-only", "--benchmark-max-time=0.001", "--benchmark-min-rounds=1"),
            *("--benchmark-warmup=off", f"--benchmark-json={file}"),
            *("-k", "heun_predict and 8 and 32 and (eager or liger) and not bfloat16"),
        ],
        cwd=ROOT,
        # A worker of pytest-xdist would switch the measurements off.
        env={k: v for k, v in os.environ.items() if "XDIST" not in k} | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads(file.read_text())["benchmarks"]
    assert found["group"].startswith("heun_predict, forward: shape (8, 3, 32, 32)")
    assert found["stats"]["median"] > 0


def test_the_normal_run_does_not_collect_them(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.getini("testpaths") == ["tests"]
