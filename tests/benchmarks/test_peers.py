"""Clones are recognised and imported side by side, without a trace in this process."""

import sys
from pathlib import Path

import pytest

from benchmarks.peers import missing, recognise

from .fake_clones import fake_ctm, fake_edm


def test_clones_are_recognised_by_their_files(tmp_path: Path) -> None:
    assert recognise(fake_edm(tmp_path / "a")).name == "edm"
    assert recognise(fake_ctm(tmp_path / "b")).name == "ctm-cifar10"
    sony = recognise(fake_ctm(tmp_path / "c", root="code/"))
    assert sony.name == "sony-ctm" and sony.root.name == "code"
    (tmp_path / "b" / "cm" / "networks.py").unlink()
    assert recognise(tmp_path / "b").name == "openai-cm"


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has the files of no code base known here"):
        recognise(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        recognise(tmp_path / "none")


def test_clones_with_the_same_names_do_not_meet(tmp_path: Path) -> None:
    one = recognise(fake_ctm(tmp_path / "a", "one"))
    two = recognise(fake_ctm(tmp_path / "b", "two"))
    path = list(sys.path)
    assert one.load("cm.networks").MARK == "one"
    assert two.load("cm.networks").MARK == "two"
    assert one.load("cm.mark").MARK == "one"
    with two.active():
        assert sys.modules["cm.mark"].MARK == "two"
    assert not any(name.split(".")[0] == "cm" for name in sys.modules)
    assert sys.path == path


@pytest.mark.skipif(not missing("flash_attn"), reason="flash_attn is installed")
def test_optional_libraries_are_replaced_within_a_clone_only(tmp_path: Path) -> None:
    clone = recognise(fake_edm(tmp_path / "a"))
    flash = clone.load("training.networks").flash_attn
    made = flash.some_function(1, 2)
    with pytest.raises(ImportError, match=r"flash_attn\.some_function is not installed"):
        made(3)
    with pytest.raises(ImportError):
        import flash_attn  # noqa: F401


def test_what_is_needed_and_missing_is_an_import_error(tmp_path: Path) -> None:
    clone = recognise(fake_edm(tmp_path / "a"))
    (tmp_path / "a" / "training" / "networks.py").write_text("import no_such_library_at_all\n")
    with pytest.raises(ImportError, match="no_such_library_at_all"):
        clone.load("training.networks")
