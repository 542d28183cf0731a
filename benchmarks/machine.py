"""The machine and the versions that every number is written with; names no host, user or folder."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from ctm_fast.evaluation import environment
from ctm_fast.evaluation.environment import processor
from ctm_fast.kernels import _triton


def facts(device: str) -> dict[str, Any]:
    """What the lines of a result file say about where they come from.

    Args:
        device: "cpu" or "cuda": which of the two the machine is named after.
    """
    known = environment()
    commit = known["commit"].removesuffix(" + changes")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    cpu = f"{processor()}, {os.cpu_count()} cores"
    return {
        "machine": gpu if device == "cuda" else cpu,
        "cpu": cpu,
        "gpu": gpu,
        "driver": driver() if gpu else None,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": None if _triton.ABSENT else _triton.triton.__version__,
        "python": platform.python_version(),
        "system": known["system"],
        "native parts": known["native parts"],
        "threads": torch.get_num_threads(),
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "dirty": commit != known["commit"],
    }


def driver() -> str | None:
    """Version of the NVIDIA driver, as far as the system tells."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
        found = re.search(r"\s(\d+\.\d+(\.\d+)?)\s", text)
        if found:
            return found[1]
    except OSError:
        pass
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split("\n")[0].strip() or None


def file_name(about: dict[str, Any]) -> str:
    """`<machine>-<date>-<commit>[-dirty].jsonl` of the facts of a run."""
    machine = re.sub(r"\((r|tm|c)\)", "", str(about["machine"]).lower())
    commit = about["commit"] if re.fullmatch("[0-9a-f]+", about["commit"]) else "no-commit"
    name = re.sub(r"[^a-z0-9]+", "-", machine).strip("-")
    return f"{name}-{about['date']}-{commit}{'-dirty' if about['dirty'] else ''}.jsonl"
