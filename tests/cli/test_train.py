"""`ctm-fast train`: teacher, student, resume, and clear refusals."""

import json

import pytest
import torch

from ctm_fast import data
from ctm_fast.checkpoints import header, load
from ctm_fast.cli import main
from ctm_fast.cli.train import new_denoiser

QUICK = ["--batch-size", "8", "--no-progress-bar", "--log-every", "1"]


def train(out, *words, steps=2) -> int:
    return main(["train", "--out", str(out), "--steps", str(steps), *QUICK, *words])


def test_teacher_from_data(tmp_path, capsys) -> None:
    assert train(tmp_path, "--seed", "4", "objective:dsm") == 0
    path = tmp_path / "model.safetensors"
    assert str(path) in capsys.readouterr().out
    described = header(path)
    assert described["kind"] == "denoiser"
    assert described["sigma_data"] == pytest.approx(0.752, abs=1e-3)
    assert described["provenance"]["step"] == 2
    assert described["provenance"]["seed"] == 4
    assert load(path).label_dim == 10
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "previews" / "step-000002.png").is_file()


def test_student_of_a_teacher_resumes_by_itself(tmp_path, teacher_file) -> None:
    words = ["--teacher", str(teacher_file), "objective:ctm", "--objective.num-scales", "4"]
    straight, halves = tmp_path / "a", tmp_path / "b"
    assert train(straight, *words, steps=3) == 0
    assert train(halves, *words, steps=3) == 0
    resumed = json.loads((halves / "log.jsonl").read_text().splitlines()[-1])
    assert resumed["step"] == 3
    assert train(halves, *words, steps=3) == 0  # nothing left to do
    a, b = (load(out / "model.safetensors") for out in (straight, halves))
    assert a.kind == "trajectory"
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_tensorboard_shows_the_previews_of_a_model_that_jumps(tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    mode = ["--tensorboard", "objective:ctm", "--objective.self-teacher", "jump"]
    assert train(tmp_path, *mode, steps=1) == 0
    shown = EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    names = [f"nfe{n}" for n in (1, 2, 4)]
    assert sorted(shown.Tags()["images"]) == [f"preview/{name}" for name in names]
    files = sorted(path.name for path in (tmp_path / "previews").iterdir())
    assert files == [f"step-000001-{name}.png" for name in names]


def test_student_without_a_teacher(tmp_path) -> None:
    mode = ["objective:ctm", "--objective.self-teacher", "jump", "--objective.num-scales", "4"]
    assert train(tmp_path, *mode, steps=1) == 0
    assert load(tmp_path / "model.safetensors").kind == "trajectory"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_teacher_in_half_precision(tmp_path, teacher_file, dtype) -> None:
    words = ["--teacher", str(teacher_file), "--teacher-dtype", dtype]
    assert train(tmp_path, *words, "objective:ctm", "--objective.num-scales", "4", steps=1) == 0


def test_refusals(tmp_path, teacher_file, capsys) -> None:
    for words, message in [
        (["objective:ctm"], "needs --teacher"),
        (["--teacher", str(teacher_file), "objective:dsm"], "leave --teacher out"),
        (["--data", "cats", "objective:dsm"], "cats"),
        (["--net", "resnet", "objective:dsm"], "unknown network 'resnet'"),
        (
            ["--teacher", str(teacher_file), "--teacher-dtype", "int8", "objective:ctm"],
            "unknown teacher_dtype 'int8'",
        ),
    ]:
        assert train(tmp_path, *words) == 1
        assert message in capsys.readouterr().err


def test_new_denoiser_takes_shape_classes_and_sigma_data_from_the_data() -> None:
    digits = data.open("digits")
    model = new_denoiser("digits", digits, seed=0)
    assert (model.img_channels, model.img_resolution, model.label_dim) == (1, 8, 10)
    assert model.sigma_data == digits.sigma_data
    assert model.precond.noise_embedding == "quarter_log"
    assert new_denoiser("digits", digits, seed=0, destination=True).kind == "trajectory"


def test_preset_values_are_defaults_that_the_command_line_changes(tmp_path, teacher_file) -> None:
    words = ["--teacher", str(teacher_file), "--batch-size", "8", "--steps", "1"]
    words += [
        "--no-progress-bar",
        "--seed",
        "3",
        "objective:ect",
        "--objective.weighting",
        "karras",
    ]
    assert main(["train", "--preset", "ect-digits", "--out", str(tmp_path), *words]) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["train"]["lr"] == 1e-3
    assert config["train"]["batch_size"] == 8
    assert config["objective"]["weighting"] == "karras"
    assert config["objective"]["density"]["P_mean"] == -0.7
    model = load(tmp_path / "model.safetensors")
    assert (model.kind, model.sigma_min, model.sigma_max) == ("consistency", 0.01, 20.0)


def test_objectives_that_refer_to_the_data_set_get_it(tmp_path, teacher_file) -> None:
    words = ["--teacher", str(teacher_file), "objective:sct", "--objective.reference", "data"]
    assert train(tmp_path, *words, steps=1) == 0


def test_a_run_begins_with_the_model_of_another(tmp_path, teacher_file, student_file) -> None:
    words = ["--teacher", str(teacher_file), "--student", str(student_file), "--lr", "1e-30"]
    levels = ["objective:ctm", "--objective.num-scales", "4"]
    assert train(tmp_path, *words, "--ema", "0.5", *levels, steps=1) == 0
    begun, known = load(tmp_path / "model.safetensors"), load(student_file)
    for (name, p), q in zip(begun.named_parameters(), known.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=name)


def test_augmented_teacher(tmp_path) -> None:
    small = ["model_channels=32", "channel_mult=1,2", "num_blocks=1", "augment_dim=9"]
    words = ["--augment", "0.5", "--net-options", *small, "objective:dsm"]
    assert train(tmp_path, *words, steps=1) == 0
    assert load(tmp_path / "model.safetensors").net.augment_dim == 9


def test_students_that_do_not_suit(tmp_path, teacher_file, capsys) -> None:
    teacher = ["--teacher", str(teacher_file)]
    for words, message in [
        ([*teacher, "--student", str(teacher_file), "objective:ctm"], "of kind 'trajectory', but"),
        ([*teacher, "--net-options", "label_dim=3", "objective:ctm"], "the teacher has 10 classes"),
    ]:
        assert train(tmp_path, *words) == 1
        assert message in capsys.readouterr().err
    assert main(["train", "--preset", "ctm-imagenet64-gan", "--data", "digits", *teacher]) == 1
    assert "continues another run's model: --student MODEL" in capsys.readouterr().err


def test_preset_refusals(tmp_path, teacher_file, capsys) -> None:
    for words, message, status in [
        (["--preset", "ect-cifar10"], "needs the data", 1),
        (["--preset", "ect-digits"], "starts from a trained model: --teacher MODEL", 1),
        (["--preset", "ect-digit"], "unknown preset 'ect-digit'", 2),
        (["--preset"], "", 2),
        (["objective:dsm"], "say where the run is kept: --out", 1),
    ]:
        assert main(["train", *words]) == status
        assert message in capsys.readouterr().err
