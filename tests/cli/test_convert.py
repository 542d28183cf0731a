"""`ctm-fast convert`: says what it found, proves what it wrote, and replaces nothing unasked."""

import json

import pytest
import torch
from safetensors.torch import save_file

from ctm_fast.checkpoints import header, load
from ctm_fast.cli import convert, main
from ctm_fast.cli.convert import compared
from ctm_fast.models.key_layouts import to_published


def run(*words) -> int:
    return main(["convert", *map(str, words)])


@pytest.fixture
def foreign_file(student_file, tmp_path):
    """The student's weights under another code base's names."""
    model = load(student_file)
    state = to_published(model.net.state_dict(), model.net.config, "edm", prefix="model.")
    save_file(state, tmp_path / "foreign.safetensors")
    return tmp_path / "foreign.safetensors"


def test_a_foreign_file(foreign_file, student_file, tmp_path, capsys) -> None:
    out = tmp_path / "deep" / "out.safetensors"
    overrides = ["sigma_data=0.7", "dropout=0.25"]
    assert run(foreign_file, out, "--kind", "trajectory", *overrides) == 0
    shown = capsys.readouterr().out
    assert "format: ctm-cifar10" in shown
    assert "network: song" in shown and "model_channels=32" in shown
    assert "kind: trajectory" in shown and "sigma_data 0.7" in shown
    assert "outputs on a random batch equal" in shown
    found = header(out)
    assert found["provenance"]["source_format"] == "ctm-cifar10"
    assert found["provenance"]["source_name"] == "foreign.safetensors"
    notes = found["provenance"].get("notes", [])
    assert [line for line in shown.splitlines() if line.startswith("assumed: ")] == [
        f"assumed: {note}" for note in notes
    ]
    assert found["net"]["dropout"] == 0.25
    own = load(out).net.state_dict()
    for name, value in load(student_file).net.state_dict().items():
        assert torch.equal(own[name], value)
    assert [file.name for file in out.parent.iterdir()] == ["out.safetensors"]


def test_nothing_is_replaced_unasked(student_file, tmp_path, capsys) -> None:
    out = tmp_path / "out.safetensors"
    out.write_text("precious")
    assert run(student_file, out) == 1
    assert "--force" in capsys.readouterr().err
    assert out.read_text() == "precious"
    assert run(student_file, out, "--force") == 0
    assert header(out)["kind"] == "trajectory"
    before = out.read_bytes()
    assert run(out, out, "--force") == 1
    assert "both source and target" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_a_file_that_gives_other_outputs_is_removed(
    student_file, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(convert, "compared", lambda one, other: float("nan"))
    out = tmp_path / "out.safetensors"
    out.write_text("precious")
    assert run(student_file, out, "--force") == 1
    assert "other outputs" in capsys.readouterr().err
    assert [file.read_text() for file in tmp_path.iterdir()] == ["precious"]


def test_comparison_sees_a_difference(student_file) -> None:
    one, other = load(student_file), load(student_file)
    assert compared(one, other) == 0
    with torch.no_grad():
        other.net.last_layer.weight[0, 0, 0, 0] += 1e-3
    assert compared(one, other) > 0
    with torch.no_grad():
        other.net.last_layer.weight.fill_(float("nan"))
    assert compared(one, other) != 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out.pt"], "OUT must end in .safetensors"),
        (["out.safetensors", "kind"], "KEY=VALUE, got 'kind'"),
        (["out.safetensors", "king=consistency"], "unknown overrides ['king']"),
        (["out.safetensors", "--format", "magic"], "unknown format 'magic'"),
        (["out.safetensors", "--kind", "magic"], "magic"),
    ],
)
def test_refusals(student_file, tmp_path, capsys, words, message) -> None:
    assert run(student_file, tmp_path / words[0], *words[1:]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_missing_source(tmp_path, capsys) -> None:
    assert run(tmp_path / "absent.pt", tmp_path / "out.safetensors") == 1
    assert "absent.pt does not exist" in capsys.readouterr().err


def test_provenance_survives(student_file, tmp_path) -> None:
    from ctm_fast.checkpoints import save

    source = save(load(student_file), tmp_path / "a.safetensors", step=9, ema_decay=0.999)
    assert run(source, tmp_path / "b.safetensors") == 0
    found = header(tmp_path / "b.safetensors")["provenance"]
    assert found["step"] == 9 and found["ema_decay"] == 0.999
    assert json.dumps(found)
