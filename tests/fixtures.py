"""Reference tensors recorded from published implementations.

`tests/golden` holds a small slice of them; the whole fixture folders are used where they lie
beside the repository.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

GOLDEN = Path(__file__).resolve().parent / "golden"
FIXTURES = Path(__file__).resolve().parents[2] / "shared" / "fixtures"

Recorded = tuple[dict[str, torch.Tensor], dict[str, Any]]  # tensors by name, their description


def fixture_dir(name: str) -> Path | None:
    """Folder of a fixture, or None where it is not beside the repository."""
    folder = FIXTURES / name
    return folder if folder.is_dir() else None


def load_fixture(name: str) -> Recorded:
    """Inputs and outputs of a whole fixture, and its meta.json."""
    folder = FIXTURES / name
    return load_file(folder / "io.safetensors"), json.loads((folder / "meta.json").read_text())


def load_weights(name: str) -> dict[str, torch.Tensor]:
    """Published state dict of a fixture's network."""
    return load_file(FIXTURES / name / "weights.safetensors")


def load_golden(name: str) -> Recorded:
    """The slice of a fixture that the repository holds, and its description."""
    path = GOLDEN / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        meta = file.metadata()
    return load_file(path), json.loads(meta["meta"])


def sources(name: str) -> list[str]:
    """Where the recorded tensors can be read: "golden", and "fixture" where it is present."""
    return ["golden", *(["fixture"] if fixture_dir(name) else [])]


def load(name: str, source: str) -> Recorded:
    """Recorded tensors from one of `sources`."""
    return load_golden(name) if source == "golden" else load_fixture(name)


def tolerance(meta: dict[str, Any], name: str) -> dict[str, Any]:
    """Fair tolerance of one tensor: mode (slice, tensor or elementwise), rtol, atol."""
    return meta["tensors"][name]["suggested_tol"]


def deviation(value: torch.Tensor, expected: torch.Tensor, tol: dict[str, Any]) -> float:
    """Largest deviation in units of the tolerance; at most 1 is a pass.

    The tolerance is atol + rtol max|expected|, the maximum taken over each slice of the first
    axis, over the whole tensor, or over nothing, as `tol["mode"]` says.
    """
    assert value.shape == expected.shape, f"{value.shape}, not {expected.shape}"
    found, expected = value.detach().double(), expected.double()
    difference, size = (found - expected).abs(), expected.abs()
    mode = tol.get("mode", "slice")
    if mode == "slice":
        rows = max(1, len(expected))
        difference, size = (v.reshape(rows, -1).amax(1) for v in (difference, size))
    elif mode == "tensor":
        difference, size = difference.amax(), size.amax()
    else:
        assert mode == "elementwise", f"unknown tolerance mode {mode!r}"
    allowed = tol["atol"] + tol["rtol"] * size
    ratio = torch.where(difference == 0, 0.0, difference / allowed)
    return float(torch.nan_to_num(ratio, nan=torch.inf).max())


def assert_within(value: torch.Tensor, expected: torch.Tensor, tol: dict[str, Any]) -> None:
    """Asserts that `value` is within the tolerance of `expected`; shapes must agree."""
    ratio = deviation(value, expected, tol)
    assert ratio <= 1, f"deviates by {ratio:.3g} times the tolerance {tol}"
