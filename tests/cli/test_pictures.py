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


class Shown(list):
    """What would go to TensorBoard."""

    def picture(self, name, file, step) -> None:
        self.append((name, file.name, step))


@pytest.mark.parametrize(
    ("kind", "endings"), [("teacher_file", [""]), ("student_file", ["-nfe1", "-nfe2", "-nfe4"])]
)
def test_preview_writes_pictures_per_step(kind, endings, request, tmp_path) -> None:
    shown = Shown()
    trainer = SimpleNamespace(ema=load(request.getfixturevalue(kind)), board=shown)
    write = preview(tmp_path / "previews", data.open("digits"))
    write(trainer, 7)
    trainer.board = None
    write(trainer, 12)
    files = sorted((tmp_path / "previews").iterdir())
    names = [path.name for path in files]
    assert names == [f"step-{step:06d}{end}.png" for step in (7, 12) for end in endings]
    tags = ["preview" + end.replace("-", "/") for end in endings]
    assert shown == [(tag, name, 7) for tag, name in zip(tags, names)]
    # 8 images per row of 8 pixels each, enlarged; ten rows.
    width, height = Image.open(files[0]).size
    assert height > width > 8 * 8
    # One seed: the same model gives the same picture; more network calls give another one.
    assert files[0].read_bytes() == files[len(endings)].read_bytes()
    assert len({path.read_bytes() for path in files}) == len(endings)
