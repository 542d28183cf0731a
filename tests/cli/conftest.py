"""Model files that the commands read."""

from pathlib import Path

import pytest

from ctm_fast import data, models
from ctm_fast.checkpoints import save
from ctm_fast.cli.train import new_denoiser

SMALL = {"model_channels": 32, "channel_mult": (1, 2), "num_blocks": 1}


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small class-conditional denoiser of the digits with random weights."""
    model = new_denoiser("digits", data.open("digits"), seed=1, **SMALL)
    return save(model, tmp_path_factory.mktemp("models") / "teacher.safetensors")


@pytest.fixture(scope="session")
def student_file(teacher_file: Path) -> Path:
    """A student of that teacher with random destination layers."""
    from ctm_fast.checkpoints import load

    student = models.student_from(load(teacher_file), seed=2)
    return save(student, teacher_file.with_name("student.safetensors"))
