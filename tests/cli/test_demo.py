"""`ctm-fast demo` end to end with a budget of a few steps, and its continuation."""

import dataclasses
import json

import pytest
import torch

from ctm_fast.checkpoints import load
from ctm_fast.cli import demo, main
from ctm_fast.cli.budgets import BUDGETS
from ctm_fast.sampler import Sampler

from .conftest import SMALL


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small budget with a few steps, few samples and a small network."""
    budget = BUDGETS["small"]
    quick = {"steps": 3, "batch_size": 8, "log_every": 1, "lr_cooldown": 1, "progress_bar": False}
    small = dataclasses.replace(
        budget,
        teacher=budget.teacher.replace(**quick),
        student=budget.student.replace(**quick),
        net_options=SMALL,
    )
    monkeypatch.setitem(demo.BUDGETS, "small", small)

    class Few(demo.OfflineProtocol):
        def __init__(self, dataset, seed):
            super().__init__(dataset, seed, num_samples=60)

    monkeypatch.setattr(demo, "OfflineProtocol", Few)
    monkeypatch.setattr(demo, "TEACHER_STEPS", 2)


def test_demo_writes_everything_and_repeats_itself(tiny, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    assert main(["demo", "--out", str(out), "--seed", "5"]) == 0
    told = capsys.readouterr().out
    assert "1797 real digits" in told
    assert "gives the same images again" in told
    written = {path.name for path in out.iterdir()}
    assert {
        "report.html", "metrics.json", "model.safetensors", "teacher.safetensors",
        "samples-ctm-nfe1.png", "samples-ctm-nfe8.png", "samples-teacher-nfe3.png",
        "same-seeds.png", "trajectory.png", "loss-teacher.png", "loss-student.png",
    } <= written  # fmt: skip

    rows = json.loads((out / "metrics.json").read_text())["rows"]
    assert [(row["name"], row["nfe"]) for row in rows] == [
        ("real / real", None), ("teacher", 3), ("CTM", 1), ("CTM", 2), ("CTM", 4), ("CTM", 8),
    ]  # fmt: skip
    page = (out / "report.html").read_text()
    assert "1797" in page or "1,797" in page
    assert "http://" not in page.replace("http://www.w3.org", "")

    first = Sampler(load(out / "model.safetensors"), steps=2)(labels=[3, 1], seed=0)
    assert main(["demo", "--out", str(out), "--seed", "5"]) == 0  # everything is there already
    again = Sampler(load(out / "model.safetensors"), steps=2)(labels=[3, 1], seed=0)
    assert torch.equal(first, again)


def test_demo_with_the_adversarial_term(tiny, tmp_path, capsys) -> None:
    assert main(["demo", "--out", str(tmp_path), "--gan"]) == 0
    assert "CTM + GAN distillation, 5 steps" in capsys.readouterr().out  # 1, then 2 of either
    rows = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    assert [(row["name"], row["nfe"]) for row in rows[6:]] == [
        ("CTM + GAN", 1), ("CTM + GAN", 2), ("CTM + GAN", 4), ("CTM + GAN", 8),
    ]  # fmt: skip
    log = [json.loads(x) for x in (tmp_path / "student-gan/log.jsonl").read_text().splitlines()]
    terms = [set(line["loss"]) for line in log]
    assert terms[0] == {"ctm", "dsm"}
    assert {"discriminator"} in terms
    assert {"ctm", "dsm", "gan"} in terms
    plain, adversarial = (load(tmp_path / f"{name}.safetensors") for name in ("model", "model-gan"))
    pairs = zip(plain.parameters(), adversarial.parameters())
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert (tmp_path / "loss-student-gan.png").exists()


def test_an_interrupted_demo_continues_to_the_same_model(tiny, tmp_path, monkeypatch) -> None:
    straight, halves = tmp_path / "a", tmp_path / "b"
    assert main(["demo", "--out", str(straight)]) == 0

    fit, calls = demo.Trainer.fit, []

    def interrupted(trainer, steps=None):
        calls.append(trainer.objective)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(trainer, steps)

    monkeypatch.setattr(demo.Trainer, "fit", interrupted)
    assert main(["demo", "--out", str(halves)]) == 130
    assert not (halves / "model.safetensors").exists()
    monkeypatch.setattr(demo.Trainer, "fit", fit)
    assert main(["demo", "--out", str(halves)]) == 0
    a, b = (load(out / "teacher.safetensors") for out in (straight, halves))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_another_seed_in_the_same_folder_is_refused(tiny, tmp_path, capsys) -> None:
    assert main(["demo", "--out", str(tmp_path), "--seed", "1"]) == 0
    capsys.readouterr()
    assert main(["demo", "--out", str(tmp_path), "--seed", "2"]) == 1
    assert "seed" in capsys.readouterr().err
