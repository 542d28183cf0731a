"""Weights from local files: where they are looked for, and that the hash comes first."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ctm_fast.models.weight_files import WEIGHTS_DIR, check_sha256, read_weights, weight_file

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv(WEIGHTS_DIR, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_pytorch_files(tmp_path: Path, wrapper) -> None:
    path = tmp_path / "net.pth"
    torch.save({wrapper: TENSORS} if wrapper else TENSORS, path)
    for digits in (64, 8):
        found = read_weights(path, sha256(path)[:digits])
        assert found.keys() == TENSORS.keys()
        assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_safetensors_files(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    assert torch.equal(read_weights(path, sha256(path))["a.weight"], TENSORS["a.weight"])


def test_hash_in_the_name(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(TENSORS, path)
    named = tmp_path / f"net-{sha256(path)[:8]}.pth"
    named.write_bytes(path.read_bytes())
    assert read_weights(named).keys() == TENSORS.keys()
    wrong = tmp_path / "net-0123abcd.pth"
    wrong.write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="not 0123abcd: it is another file"):
        read_weights(wrong)
    assert read_weights(wrong, sha256(path)).keys() == TENSORS.keys()


def test_without_a_hash_the_file_is_refused_and_its_hash_told(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(TENSORS, path)
    with pytest.raises(ValueError, match=f"needs sha256=.*{sha256(path)}"):
        read_weights(path)


def test_the_hash_is_checked_before_anything_is_decoded(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "net.pth"
    torch.save(TENSORS, path)
    right = sha256(path)
    path.write_bytes(path.read_bytes() + b" ")
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=f"not {right}: it is another file"):
        read_weights(path, right)


class Hostile:
    def __reduce__(self):
        return (pytest.fail, ("ran code of the file",))


@pytest.mark.parametrize("content", [Hostile(), [TENSORS], {"a": 1.0}, {"model": Hostile()}])
def test_what_is_no_table_of_tensors_is_refused(tmp_path: Path, content) -> None:
    path = tmp_path / "net.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match="table of tensors"):
        read_weights(path, sha256(path))


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x80\x02garbage"])
def test_damaged_files_are_refused(tmp_path: Path, name, content) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read"):
        read_weights(tmp_path / name, sha256(tmp_path / name))


def test_where_files_are_looked_for(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "folder").mkdir()
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    own, kept, cached = tmp_path / "own.pth", tmp_path / "folder" / "net.pth", cache / "net.pth"
    for path in (own, kept, cached):
        path.write_bytes(b"x")
    assert weight_file(str(own), ["net.pth"], "Net") == own
    assert weight_file("", ["net.pth"], "Net") == cached
    monkeypatch.setenv(WEIGHTS_DIR, str(tmp_path / "folder"))
    assert weight_file("", ["other.pth", "net.pth"], "Net") == kept
    assert weight_file("net.pth", [], "Net") == kept


def test_absence_says_what_to_do(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ValueError) as caught:
        weight_file("", ["net.pth"], "Net: net.pth from https://example.org/net.pth")
    for part in ("https://example.org/net.pth", WEIGHTS_DIR, "Nothing is downloaded", "file=PATH"):
        assert part in str(caught.value)
    monkeypatch.setenv(WEIGHTS_DIR, str(tmp_path))
    (tmp_path / "net.pth").write_bytes(b"x")
    # A path that was named is not replaced by another file.
    with pytest.raises(ValueError, match=r"absent\.pth"):
        weight_file("absent.pth", ["net.pth"], "Net")


@pytest.mark.parametrize("text", ["abc", "0" * 65, "0123ABCD", "0123456z"])
def test_bad_hashes(text) -> None:
    with pytest.raises(ValueError, match="hexadecimal"):
        check_sha256(text)
    check_sha256("")
