"""Starting training programs and waiting for them, never longer than a minute."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60.0  # seconds


def environment(**extra: str) -> dict[str, str]:
    """Environment of a program started by a test."""
    paths = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    fixed = {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "PYTHONPATH": paths}
    return {**os.environ, **fixed, **extra}


@contextmanager
def program(*command: str, **extra: str) -> Iterator[subprocess.Popen[str]]:
    """python with arguments `command`, killed with its children when the block ends."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=LIMIT)


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit status, all output) of a program that ends within the limit."""
    out, error = process.communicate(timeout=LIMIT)
    return process.returncode, out + error


def wait_for_checkpoint(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Return as soon as the checkpoint of `step` has its final name."""
    wanted = folder / "checkpoints" / f"step-{step:08d}.safetensors"
    end = time.monotonic() + LIMIT
    while not wanted.exists():
        if process.poll() is not None:
            raise RuntimeError(f"ended early: {finished(process)}")
        if time.monotonic() > end:
            raise TimeoutError(f"{wanted} did not appear")
        time.sleep(0.005)
