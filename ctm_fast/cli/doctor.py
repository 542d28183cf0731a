"""What this machine can run: versions, the built parts, and a table of op x backend."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass

import torch

from ctm_fast import __version__
from ctm_fast.inference import fast_dtype, fp8, packed
from ctm_fast.kernels import BACKENDS, OPS, _native, _triton, op


def _compiler() -> str:
    named = os.environ.get("CXX", "").split()
    for name in named[:1] or ("c++", "g++", "clang++"):
        path = shutil.which(name)
        if path is not None:
            return _first_line([path, "--version"])
    return "none on PATH"


def _nvcc() -> str:
    path = shutil.which("nvcc")
    if path is None:
        return "no nvcc on PATH"
    lines = _output([path, "--version"]).splitlines()
    return next((line.strip() for line in lines if "release" in line), "nvcc gives no version")


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]} does not run ({error})"


def _first_line(command: list[str]) -> str:
    return (_output(command).splitlines() or ["no version"])[0]


def _devices() -> list[str]:
    if not torch.cuda.is_available():
        return [f"none (torch was built for CUDA {torch.version.cuda or 'none'})"]
    names = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    return [f"{d.name}, sm_{d.major}{d.minor}, {d.total_memory / 2**30:.0f} GiB" for d in names]


def _frozen() -> str:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = str(fast_dtype(device)).removeprefix("torch.")
    plain = None if packed.ABSENT is None else f"convolutions not packed: {packed.ABSENT}"
    weights = plain or "convolutions packed on a CPU"
    return f"in {dtype} on {device}; {weights}; fp8: {fp8.why_not(device) or 'on request'}"


def facts() -> list[tuple[str, str]]:
    """(name, value) lines about the machine and what is installed."""
    triton = _triton.ABSENT or f"{_triton.triton.__version__}"
    if _triton.INTERPRETED:
        triton += ", interpreted on the CPU (TRITON_INTERPRET)"
    default = os.environ.get("CTM_FAST_BACKEND")
    return [
        ("ctm_fast", __version__),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        ("triton", triton),
        ("compiler", _compiler()),
        ("cuda compiler", _nvcc()),
        ("cuda devices", "; ".join(_devices())),
        ("native part", "; ".join(_native.parts()) or f"none: {_native.ABSENT}"),
        ("frozen", _frozen()),
        ("backend", f"{op._default}" + (" (CTM_FAST_BACKEND)" if default else "")),
    ]


def availability(device: str) -> list[tuple[str, str, str]]:
    """(op, backend, "available" or the reason) for one example of every op on `device`."""
    rows = []
    for name, each in OPS.items():
        args, kwargs = each.example(device=device, **each.cases[0])
        chosen = each.choose(*args, **kwargs)
        for backend in BACKENDS:
            reason = each.why_not(backend, *args, **kwargs)
            taken = "available, taken by auto" if backend == chosen else "available"
            rows.append((name, backend, reason or taken))
    return rows


@dataclass(frozen=True)
class Doctor:
    """Print versions, the built native parts, and which backend every op can use, or why not."""

    def run(self) -> int:
        """Print the report; returns 0."""
        return run()


def run() -> int:
    """Prints the report to stdout; returns 0."""
    for name, value in facts():
        print(f"{name:<14} {value}")
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        rows = availability(device)
        width = max(len(name) for name, _, _ in rows)
        print(f"\n{'op':<{width}}  {'backend':<9}  on {device} tensors")
        for name, backend, state in rows:
            print(f"{name:<{width}}  {backend:<9}  {state}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run())
