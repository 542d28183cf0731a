"""`ctm-fast evaluate --metrics`: models, stored samples and reference files, end to end."""

import json

import numpy as np
import pytest
import torch

from ctm_fast import data
from ctm_fast.checkpoints import load, save
from ctm_fast.cli import main
from ctm_fast.evaluation.pixels import pixels_of
from ctm_fast.evaluation.weights import file_sha256
from tests.evaluation.small import WIDTH, Features


@pytest.fixture(scope="module")
def plug_in(tmp_path_factory) -> tuple[str, ...]:
    """Words that choose a small extractor."""
    path = tmp_path_factory.mktemp("extractors") / "small.pt2"
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    shapes = {"images": {0: torch.export.Dim("batch")}}
    torch.export.save(torch.export.export(Features(), (images,), dynamic_shapes=shapes), path)
    return ("--extractor", str(path), "--sha256", file_sha256(path))


@pytest.fixture(scope="module")
def digits_file(plug_in, tmp_path_factory):
    """Reference file of 200 digits, with features."""
    path = tmp_path_factory.mktemp("references") / "digits.npz"
    words = ("--reference-from", "digits", "--reference-out", str(path), "--num", "200")
    assert main(["evaluate", *words, "--metrics", "kid", *plug_in]) == 0
    return path


def test_reference_file(digits_file, plug_in, tmp_path, capsys) -> None:
    with np.load(digits_file) as stored:
        assert stored["mu"].shape == (WIDTH,) and stored["sigma"].shape == (WIDTH, WIDTH)
        assert stored["features"].shape == (200, WIDTH)
        card = json.loads(str(stored["ctm_fast_card"]))
    assert card["samples"] == 200 and card["data"] == "digits"
    assert card["extractor"]["sha256"] == plug_in[-1]
    words = ("--reference-from", "digits", "--reference-out", str(tmp_path / "a.npz"))
    assert main(["evaluate", *words, "--num", "20", *plug_in]) == 0
    assert "statistics of 20 images\n" in capsys.readouterr().out
    with np.load(tmp_path / "a.npz") as stored:
        assert "features" not in stored
    words = ("--reference-from", "photo-patches", "--reference-out", str(tmp_path / "b.npz"))
    options = ("--data-options", "size=8", "stride=64", "flip=true", "photos=china")
    assert main(["evaluate", *words, *options, "--num", "20", *plug_in]) == 0
    with np.load(tmp_path / "b.npz") as stored:
        told = json.loads(str(stored["ctm_fast_card"]))["data_details"]
    assert told["stride"] == 64 and told["flip"] is True and list(told["photos"]) == ["china"]


def test_a_model(digits_file, plug_in, student_file, tmp_path, capsys) -> None:
    said = {"ema_decay": 0.999, "global_batch": 256, "step": 7}
    model = save(load(student_file), tmp_path / "told.safetensors", **said)
    out = tmp_path / "new" / "numbers.json"
    words = ("--model", str(model), "--steps", "1", "2", "--num-images", "24", "--repeats", "2")
    words += ("--metrics", "fid", "kid", "is", "pr", "--reference", str(digits_file))
    words += (*plug_in, "--uint8", "trunc", "--out", str(out), "--batch-size", "16")
    assert main(["evaluate", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["fid", "kid", "kid_std", "is", "is_std", "precision", "recall"]
    assert [line.split("  ")[0].strip() for line in lines if line.startswith("NFE")] == [
        "NFE 1",
        "NFE 2",
    ]
    assert sum(line.startswith("  seeds 24-47") for line in lines) == 2
    assert "ema_rate: 0.999" in lines and "global_batch: 256" in lines
    rows = json.loads(out.read_text())["rows"]
    assert list(rows) == ["NFE 1", "NFE 2"]
    for nfe, numbers in zip((1, 2), rows.values()):
        assert len(numbers) == 7
        for number in numbers:
            card = number["card"]
            assert card["nfe"] == nfe and card["seeds"] == ["0-23", "24-47"]
            assert (card["ema_rate"], card["global_batch"], card["training_step"]) == (
                0.999,
                256,
                7,
            )
            assert card["model_sha256"] == file_sha256(model) and card["uint8"] == "trunc"
            assert card["reference"] is None or card["reference"]["file"] == "digits.npz"
    assert rows["NFE 1"][0]["value"] == min(rows["NFE 1"][0]["values"])


def test_what_the_file_does_not_say(plug_in, teacher_file, tmp_path, capsys) -> None:
    """A diffusion model compared with data; rate and batch from the command line."""
    out = tmp_path / "numbers.json"
    words = ("--model", str(teacher_file), "--steps", "2", "--num", "10", "--metrics", "fid")
    words += ("--ema-rate", "0.9999", "--out", str(out), *plug_in)
    assert main(["evaluate", *words]) == 0
    shown = capsys.readouterr().out
    assert "ema_rate: 0.9999" in shown and "global_batch: not known" in shown
    (numbers,) = json.loads(out.read_text())["rows"].values()
    assert numbers[0]["card"]["nfe"] == 3
    assert numbers[0]["card"]["reference"]["data"] == "digits"
    assert numbers[0]["card"]["reference"]["samples"] == 1797


def test_stored_samples(digits_file, plug_in, tmp_path, capsys) -> None:
    """The same digits have distance zero; others a little, noise much more."""
    pixels = pixels_of(data.open("digits"), torch.arange(400)).permute(0, 2, 3, 1).numpy()
    noise = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1), dtype=np.uint8)
    found = []
    for name, images in (("same", pixels[:200]), ("others", pixels[200:]), ("noise", noise)):
        path, out = tmp_path / f"{name}.npz", tmp_path / f"{name}.json"
        np.savez(path, images, np.zeros(len(images), np.int64))
        words = ("--samples", str(path), "--metrics", "fid", "--reference", str(digits_file))
        assert main(["evaluate", *words, *plug_in, "--out", str(out)]) == 0
        (row,) = json.loads(out.read_text())["rows"].items()
        assert row[0] == f"{name}.npz" and row[1][0]["card"]["uint8"] == "as stored"
        found.append(row[1][0]["value"])
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert 10 * found[0] < 10 * found[1] < found[2]


def refused(capsys, *words: str) -> str:
    assert main(["evaluate", *words]) in (1, 2)
    return capsys.readouterr().err


def test_absent_weights_say_what_to_fetch(student_file, digits_file, capsys) -> None:
    said = refused(capsys, "--model", str(student_file), "--metrics", "fid")
    assert "pt_inception-2015-12-05-6726825d.pth" in said and "--weights PATH" in said
    assert "https://github.com/toshas/torch-fidelity" in said


def test_refusals(student_file, digits_file, plug_in, tmp_path, capsys) -> None:
    model = ("--model", str(student_file), "--metrics", "fid")
    assert "need one of --model and --samples" in refused(capsys)
    assert "--samples needs --metrics" in refused(capsys, "--samples", "a.npz")
    assert "need each other" in refused(capsys, "--reference-from", "digits")
    assert "leave out --model" in refused(
        capsys, *model, "--reference-from", "digits", "--reference-out", "a.npz"
    )
    assert "--reference and --weights need --metrics" in refused(
        capsys, "--model", str(student_file), "--reference", str(digits_file)
    )
    assert "--num must be at least 1, got 0" in refused(capsys, *model, "--num", "0")
    assert "--batch-size must be at least 1" in refused(capsys, *model, "--batch-size", "0")
    assert "--repeats must be at least 1" in refused(capsys, *model, "--repeats", "0")
    assert "--repeats is for models" in refused(
        capsys, "--samples", "a.npz", "--metrics", "fid", "--repeats", "2"
    )
    assert "Inception resizes by itself" in refused(capsys, *model, "--resize", "64")
    assert "--weights is for" in refused(capsys, *model, *plug_in, "--weights", "a.pth")
    assert "is a program" in refused(capsys, *model, *plug_in[:2])
    assert "--data photo-patches has images" in refused(
        capsys, *model, *plug_in, "--data", "photo-patches"
    )
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    samples = ("--samples", str(tmp_path / "a.npz"), "--metrics", "fid")
    assert "has no arr_0 (N, H, W, C)" in refused(capsys, *samples, *plug_in)
    wrong = ("--reference-from", "digits", "--reference-out", str(tmp_path / "a.txt"), *plug_in)
    assert "--reference-out must end in .npz" in refused(capsys, *wrong)
