"""Reference tensors recorded from published implementations, where the folder is present.

The repository does not hold them: a test that uses them also has a part that runs without.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2] / "shared" / "fixtures"


@dataclass(frozen=True)
class Fixture:
    """One recorded network or procedure."""

    io: dict[str, torch.Tensor]  # named inputs and outputs
    weights: dict[str, torch.Tensor]  # published state dict, empty if there is none
    meta: dict[str, Any]  # constructor, tolerances, what every tensor is

    def error(self, name: str, value: torch.Tensor) -> float:
        """Largest deviation of `value` from tensor `name`, in units of its tolerance."""
        tolerance = self.meta["tensors"][name]["suggested_tol"]
        found, expected = value.detach().double(), self.io[name].double()
        assert found.shape == expected.shape, f"{name}: {found.shape} != {expected.shape}"
        difference, size = (found - expected).abs(), expected.abs()
        if tolerance["mode"] == "slice":
            difference, size = difference.flatten(1).amax(1), size.flatten(1).amax(1)
        elif tolerance["mode"] == "tensor":
            difference, size = difference.amax(), size.amax()
        ratio = difference / (tolerance["atol"] + tolerance["rtol"] * size)
        return float(torch.nan_to_num(ratio, nan=float("inf")).max())

    def check(self, **values: torch.Tensor) -> None:
        """Asserts that every value is within its tensor's tolerance."""
        errors = {name: self.error(name, value) for name, value in values.items()}
        assert all(error <= 1 for error in errors.values()), f"errors / tolerance: {errors}"


def fixture_dir(name: str) -> Path | None:
    """Folder of a fixture, or None where the reference tensors are not present."""
    folder = ROOT / name
    return folder if folder.is_dir() else None


def load_fixture(name: str) -> Fixture | None:
    """A fixture's tensors and description, or None where they are not present."""
    folder = fixture_dir(name)
    if folder is None:
        return None
    weights = folder / "weights.safetensors"
    return Fixture(
        io=load_file(folder / "io.safetensors"),
        weights=load_file(weights) if weights.exists() else {},
        meta=json.loads((folder / "meta.json").read_text()),
    )
