"""The lines about other code bases' files, in README and docs, do what they say with such files."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

import ctm_fast
from ctm_fast.cli import main

from .checkpoints.samples import ADM, make, network, published

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
# Source of every line, by the file that it names; sizes are not the published ones.
FORMATS = {
    "edm-cifar10-32x32-uncond-vp.pkl": "edm",
    "ema_0.999_049000.pt": "ctm",
    "ema_0.9999_100000.pt": "ctm-cifar10",
    "cd_imagenet64_l2.pt": "openai",
    "model.pt": "openai",
    "64x64_diffusion.pt": "guided-diffusion",
    "diffusers-cd_imagenet64_l2": "diffusers",
    "weights.safetensors": "state-dict",
    "ctm-digits.safetensors": "native",
}
ROW = re.compile(r"`(cf\.load\(\"([^\"]+)\".*?\))` \| `(ctm-fast convert .*?)` \|")


def rows(text: str) -> list[tuple[str, str, str]]:
    return ROW.findall(text)


def write(name: str, folder: Path) -> Path:
    """A small file of the format that this name stands for."""
    if FORMATS[name] == "guided-diffusion":
        state = published(network(ADM), "adm-legacy")
        for key in ("out.2.weight", "out.2.bias"):
            state[key] = torch.cat([state[key], torch.zeros_like(state[key])])
        torch.save(state, folder / name)
    else:
        (folder / "made").mkdir()
        shutil.move(make(FORMATS[name], folder / "made").path, folder / name)
    return folder / name


def test_readme_and_docs_agree() -> None:
    assert set(rows(README)) <= set(rows(DOCS))
    assert {name for _, name, _ in rows(DOCS)} == set(FORMATS)
    assert len(rows(README)) == 7


@pytest.mark.parametrize("row", rows(DOCS), ids=lambda row: row[1])
def test_line_to_load_and_line_to_convert(row, tmp_path, monkeypatch, capsys) -> None:
    line, name, command = row
    write(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    model = eval(line, {"cf": ctm_fast})
    assert isinstance(model, ctm_fast.Denoiser)
    words = shlex.split(command)
    assert main(words[1:]) == 0
    told = capsys.readouterr().out
    assert f"format: {FORMATS[name]}".replace("guided-diffusion", "openai") in told
    assert all(f"assumed: {note}" in told for note in model.notes)
    own = ctm_fast.load(words[3])
    assert own.kind == model.kind
    assert own.notes == model.notes
    for model_file in (name, words[3]):
        asked = ["--overrides", *re.findall(r"kind=\w+", command)] if "kind=" in command else []
        asked = asked if model_file == name else []
        options = ["--num", "1", "--steps", "1", "--out", "x.png", *asked]
        assert main(["sample", "--model", model_file, *options]) == 0


def test_python_in_the_docs(tmp_path, monkeypatch) -> None:
    write("cd_imagenet64_l2.pt", tmp_path)
    shutil.rmtree(tmp_path / "made")
    write("ctm-digits.safetensors", tmp_path)
    monkeypatch.chdir(tmp_path)
    for code in re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL):
        exec(compile(code.replace("64, seed", "2, seed"), "checkpoints.md", "exec"), {})
    assert (tmp_path / "ctm-digits" / "README.md").is_file()


def test_overrides_that_the_docs_name_exist() -> None:
    from ctm_fast.checkpoints.overrides import allowed_overrides
    from ctm_fast.checkpoints.parametrisation import PRECONDS

    table = DOCS.split("## What is assumed")[1]
    named = re.findall(r"^\|.*\| (.*?) \|$", table, re.MULTILINE)
    words = {word for cell in named for word in re.findall(r"`(\w+)", cell)}
    assert words - {"Preconditioning"} <= set(allowed_overrides()) and "kind" in words
    row = next(cell for cell in named if "precond=" in cell and "vp" in cell)
    assert set(re.findall(r"\"(\w+)\"", row)) <= set(PRECONDS)
