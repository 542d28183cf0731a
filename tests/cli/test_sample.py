"""`ctm-fast sample`: pictures and arrays, the same images as the Sampler's."""

import numpy as np
import pytest
import torch
from PIL import Image

from ctm_fast.checkpoints import load
from ctm_fast.cli import main
from ctm_fast.sampler import Sampler


def sample(model, out, *words) -> int:
    return main(["sample", "--model", str(model), "--out", str(out), *words])


def test_array_holds_the_samplers_images(tmp_path, student_file, capsys) -> None:
    out = tmp_path / "deep" / "images.npz"
    assert sample(student_file, out, "--num", "5", "--steps", "2", "--labels", "7") == 0
    assert "5 images, 2 network calls each" in capsys.readouterr().out
    stored = np.load(out, allow_pickle=False)
    images = Sampler(load(student_file), steps=2)(5, labels=7, seed=0)
    expected = ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(stored["arr_0"], expected)
    assert stored["arr_1"].tolist() == [7] * 5


def test_picture_and_default_labels(tmp_path, teacher_file) -> None:
    out = tmp_path / "grid.png"
    assert sample(teacher_file, out, "--num", "9", "--steps", "2", "--batch-size", "4") == 0
    assert Image.open(out).size[0] == Image.open(out).size[1] > 3 * 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels", "1", "2"], "--labels has 2 entries; need 1 or 4"),
        (["--labels", "12"], "12"),
        (["--steps", "0"], "0"),
        (["--method", "magic"], "magic"),
        (["--gamma", "2", "--method", "gamma"], "gamma is 2.0"),
        (["--sigmas", "1", "2"], "sigmas"),
    ],
)
def test_refusals(tmp_path, student_file, capsys, words, message) -> None:
    assert sample(student_file, tmp_path / "x.png", "--num", "4", *words) == 1
    assert message in capsys.readouterr().err


def test_unknown_ending(tmp_path, student_file, capsys) -> None:
    assert sample(student_file, tmp_path / "x.jpg") == 1
    assert "x.jpg" in capsys.readouterr().err
