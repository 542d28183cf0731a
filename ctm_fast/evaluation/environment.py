"""What the numbers were made with: versions, processor, threads, native parts, commit."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch

from ctm_fast import __version__

ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    """Facts in the order in which a report shows them; names no machine, user or folder."""
    facts = {
        "ctm_fast": __version__,
        "commit": commit() or "not in a git checkout",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "threads": str(torch.get_num_threads()),
        "native parts": native_parts(),
    }
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name()
        facts["CUDA"] = str(torch.version.cuda)
    return facts


def commit(root: Path = ROOT) -> str | None:
    """Commit of the checkout this package lies in, "+ changes" if it was edited; None elsewhere.

    Pages, pictures and results are no change: long measurements write them as they go.
    """
    if not (root / ".git").exists():
        return None
    try:
        name = _git(root, "rev-parse", "--short=12", "HEAD")
        code = ("--", ".", ":!docs", ":!benchmarks/results")
        changes = _git(root, "status", "--porcelain", "--untracked-files=no", *code)
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{name} + changes" if changes else name


def processor() -> str:
    """Model name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def native_parts() -> str:
    """The compiled parts in words, or why there are none."""
    from ctm_fast.kernels import _native

    return "; ".join(_native.parts()) or f"none: {_native.ABSENT}"


def _git(root: Path, *arguments: str) -> str:
    result = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return result.stdout.strip()
