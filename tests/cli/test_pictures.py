"""Previews while training."""

from types import SimpleNamespace

import pytest
from PIL import Image

from ctm_fast import data
from ctm_fast.checkpoints import load
from ctm_fast.cli.pictures import class_rows, preview


def test_class_rows() -> None:
    assert class_rows(3, 2).tolist() == [0, 0, 1, 1, 2, 2]
    assert class_rows(0, 2) is None


@pytest.mark.parametrize("kind", ["teacher_file", "student_file"])
def test_preview_writes_one_picture_per_step(kind, request, tmp_path) -> None:
    trainer = SimpleNamespace(ema=load(request.getfixturevalue(kind)))
    write = preview(tmp_path / "previews", data.open("digits"))
    write(trainer, 7)
    write(trainer, 12)
    names = sorted(path.name for path in (tmp_path / "previews").iterdir())
    assert names == ["step-000007.png", "step-000012.png"]
    # 8 images per row of 8 pixels each, enlarged; ten rows.
    width, height = Image.open(tmp_path / "previews" / names[0]).size
    assert height > width > 8 * 8
