"""The README's Python examples run as they are printed, with fewer steps and another teacher."""

import re
from pathlib import Path

import pytest

import ctm_fast

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
TEACHER, STEPS = '"runs/demo-small-seed0/teacher.safetensors"', "fit(steps=1000)"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_examples_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ctm_fast.cli.train import new_denoiser

    monkeypatch.chdir(tmp_path)
    small = {"model_channels": 32, "channel_mult": (1, 2), "num_blocks": 1}
    teacher = new_denoiser("digits", ctm_fast.data.open("digits"), seed=0, **small)
    ctm_fast.save(teacher, tmp_path / "teacher.safetensors")
    code = "\n".join(blocks())
    assert code.count(TEACHER) == code.count(STEPS) == 1
    code = code.replace(TEACHER, '"teacher.safetensors"').replace(STEPS, "fit(steps=1)")
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert (tmp_path / "ctm-digits.safetensors").is_file()
    assert names["images"].shape == (3, 1, 8, 8)
    assert len(names["path"]) == 3  # two steps and the end


def test_the_two_commands_are_make_targets() -> None:
    makefile = (Path(__file__).resolve().parents[1] / "Makefile").read_text(encoding="utf-8")
    for command in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command


def test_linked_files_exist() -> None:
    root = Path(__file__).resolve().parents[1]
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (root / target).exists(), target
