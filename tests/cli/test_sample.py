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


def test_guided_and_routed_models(tmp_path, teacher_file, capsys) -> None:
    out, two = tmp_path / "x.npz", ["--num", "3", "--steps", "2"]
    for words, calls in [
        (["--bad", str(teacher_file), "--guidance", "1.5"], 6),
        (["--guidance", "1.5"], 6),
        (["--below", str(teacher_file), "--boundary", "0.5"], 3),
    ]:
        assert sample(teacher_file, out, *two, *words) == 0
        assert f"3 images, {calls} network calls each" in capsys.readouterr().out
    assert sample(teacher_file, out, *two, "--bad", str(teacher_file)) == 1
    assert "--bad needs --guidance" in capsys.readouterr().err


def test_langevin_corrections(tmp_path, student_file, capsys) -> None:
    out, words = tmp_path / "x.npz", ["--num", "2", "--steps", "3", "--corrector-steps", "2"]
    assert sample(student_file, out, *words, "--snr", "0.1") == 0
    assert "2 images, 7 network calls each" in capsys.readouterr().out
    sampler = Sampler(load(student_file), steps=3, corrector_steps=2, snr=0.1)
    expected = ((sampler(2) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(np.load(out)["arr_0"], expected)
    assert sample(student_file, out, "--num", "2", "--steps", "2", "--snr", "0.1") == 1
    assert "snr=0.1 without corrections" in capsys.readouterr().err


def test_phases(tmp_path, teacher_file, capsys) -> None:
    out, words = tmp_path / "x.npz", ["--num", "2", "--overrides", "kind=consistency"]
    words += ["--method", "phased", "--edges", "0.5", "3", "--eta", "0.9"]
    assert sample(teacher_file, out, *words) == 0
    assert "2 images, 3 network calls each" in capsys.readouterr().out
    model = load(teacher_file, kind="consistency")
    images = Sampler(model, method="phased", edges=[3, 0.5], eta=0.9)(2, labels=[0, 1])
    expected = ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(np.load(out)["arr_0"], expected)


def test_unknown_ending(tmp_path, student_file, capsys) -> None:
    assert sample(student_file, tmp_path / "x.jpg") == 1
    assert "x.jpg" in capsys.readouterr().err


def test_a_file_of_another_code_base(tmp_path, student_file, capsys) -> None:
    from ctm_fast.models.key_layouts import to_published

    model = load(student_file)
    path, out = tmp_path / "theirs.pt", tmp_path / "images.npz"
    torch.save(to_published(model.net.state_dict(), model.net.config, "edm"), path)
    words = ["--num", "2", "--format", "ctm-cifar10", "--overrides", "sigma_max=40"]
    assert sample(path, out, *words) == 0
    assert "assumed: " in capsys.readouterr().out
    theirs = load(path, sigma_max=40.0)
    images = Sampler(theirs)(2, labels=torch.tensor([0, 1]), seed=0)
    expected = ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(np.load(out, allow_pickle=False)["arr_0"], expected)
    assert sample(path, out, "--overrides", "sigma_mx=40") == 1
    assert "sigma_mx" in capsys.readouterr().err
