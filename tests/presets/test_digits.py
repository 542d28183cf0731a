"""Presets for the embedded digits: one range of noise levels, and they train."""

from pathlib import Path

import pytest
import torch

from ctm_fast import data
from ctm_fast.checkpoints import load
from ctm_fast.cli import main
from ctm_fast.presets import PRESETS
from ctm_fast.sampler import Sampler

NAMES = [name for name in PRESETS if "digits" in name.split("-")]
TINY = [
    *("--no-progress-bar", "--batch-size", "4", "--steps", "1", "--log-every", "1"),
    *("--net-options", "model_channels=32", "channel_mult=1,2", "num_blocks=1"),
]


def trained(name: str, out: Path, *words: str) -> Path:
    assert main(["train", "--preset", name, "--out", str(out), *TINY, *words]) == 0
    return out / "model.safetensors"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained("dsm-digits", tmp_path_factory.mktemp("dsm"))


@pytest.mark.parametrize("name", NAMES)
def test_levels_fit_together(name: str) -> None:
    preset = PRESETS[name]
    low, high = preset.sigma_range or (0, 0)
    assert (low, high) == (0.01, 20.0)
    objective = preset.objective()
    for holder in (objective, getattr(objective, "density", None)):
        for field in ("sigma_min", "low"):
            assert getattr(holder, field, low) >= (0 if field == "low" else low)
        for field in ("sigma_max", "high"):
            assert getattr(holder, field, high) <= high
    assert data.open("digits").sigma_data == pytest.approx(0.752, abs=1e-3)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"dsm-digits", "tcm-digits-stage2"}))
def test_it_trains_and_samples(name: str, teacher: Path, tmp_path: Path) -> None:
    model = load(trained(name, tmp_path / "run", "--teacher", str(teacher)))
    assert (model.sigma_min, model.sigma_max) == (0.01, 20.0)
    kind = getattr(PRESETS[name].objective(), "student_kind", "trajectory")
    assert model.kind == kind
    assert torch.isfinite(Sampler(model, steps=2)(2)).all()


def test_both_stages_of_a_truncated_model(teacher: Path, tmp_path: Path) -> None:
    first = trained("tcm-digits-stage1", tmp_path / "1", "--teacher", str(teacher))
    second = load(trained("tcm-digits-stage2", tmp_path / "2", "--teacher", str(first)))
    assert second.kind == "consistency"
    for (name, p), q in zip(second.named_parameters(), load(first).parameters(), strict=True):
        assert p.shape == q.shape, name
