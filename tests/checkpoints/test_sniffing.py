"""Formats are told by content; what is no model is called by its name."""

import pickle
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ctm_fast.checkpoints import FORMATS, DamagedCheckpoint, load
from ctm_fast.checkpoints.sniffing import format_of_names, kind_of_file, path_of, sniff

from .samples import make, published


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_name_of_the_file_does_not_matter(name, tmp_path):
    sample = make(name, tmp_path)
    assert sniff(sample.path) == sniff(str(sample.path)) == name
    shutil.move(sample.path, tmp_path / "renamed.ckpt")
    assert sniff(tmp_path / "renamed.ckpt") == name


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "module.model."])
@pytest.mark.parametrize("name", ["ctm", "ctm-cifar10", "openai"])
def test_wrappers_and_nesting(name, prefix, tmp_path):
    net = make(name, tmp_path).net
    state = published(net, "edm" if name == "ctm-cifar10" else "adm", prefix)
    assert format_of_names(state) == sniff(state) == name
    torch.save({"ema": state, "step": 3}, tmp_path / "nested.pt")
    assert sniff(tmp_path / "nested.pt") == name
    save_file(state, tmp_path / "s.safetensors")
    assert sniff(tmp_path / "s.safetensors") == name


def test_old_files_of_torch_save(tmp_path):
    sample = make("state-dict", tmp_path)
    path = tmp_path / "old.pt"
    torch.save(published(sample.net, "edm"), path, _use_new_zipfile_serialization=False)
    assert kind_of_file(path) == "legacy"
    assert sniff(path) == "state-dict"
    loaded = load(path, img_resolution=8)
    assert torch.equal(loaded.net.input_conv.weight, sample.net.input_conv.weight)


def test_a_header_whose_length_begins_like_a_pickle(tmp_path):
    from safetensors import safe_open

    path = tmp_path / "weights"
    for length in range(0x0280 - 200, 0x0280):
        save_file({"a": torch.zeros(1)}, path, metadata={"x": "y" * length})
        if path.read_bytes()[:2] == b"\x80\x02":
            break
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert kind_of_file(path) == "safetensors"
    with safe_open(path, framework="pt") as file:
        assert "a" in file.keys()  # noqa: SIM118


def written(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has only 0 bytes"),
        (b"<!DOCTYPE html><html><body>quota exceeded</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
        (b"\x1f\x8b" + bytes(64), "gzip"),
        (b"just some text that is no checkpoint", "no file of torch.save"),
    ],
)
def test_what_is_often_taken_for_a_checkpoint(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load(written(tmp_path / "model.pt", content))


def test_a_name_of_our_format_does_not_make_it_one(tmp_path):
    path = written(tmp_path / "a.safetensors", pickle.dumps([1, 2, 3] * 100))
    with pytest.raises(DamagedCheckpoint, match=r"a\.safetensors"):
        load(path)


def test_archives_that_are_no_checkpoints(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("dataset.json", "{}")
        archive.writestr("0.png", b"")
    with pytest.raises(ValueError, match=r"archive of images.*data\.open"):
        load(tmp_path / "images.zip")


class _Hostile:
    def __reduce__(self):
        return (RuntimeError, ("code was run",))


def test_hostile_pickles_are_not_run(tmp_path):
    written(tmp_path / "a.pkl", pickle.dumps({"ema": _Hostile()}))
    with pytest.raises(ValueError, match=r"builtins\.RuntimeError"):
        load(tmp_path / "a.pkl")
    torch.save({"a": _Hostile()}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"RuntimeError"):
        load(tmp_path / "b.pt")


def test_folders(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder without a model.*it holds nothing"):
        sniff(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "config.json").write_text('{"library": "ctm_fast"}')
    with pytest.raises(ValueError, match=r"need model\.safetensors.*config\.json, notes\.txt"):
        sniff(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "VQModel"}')
    with pytest.raises(ValueError, match="VQModel"):
        load(tmp_path)


def test_paths():
    with pytest.raises(ValueError, match="absent does not exist"):
        path_of("absent")
    for odd in (3, None, b"bytes", [1]):
        with pytest.raises(ValueError, match="cannot be loaded"):
            load(odd)
    with pytest.raises(ValueError, match=r"no path|does not exist"):
        load("a\0b")
    with pytest.raises(ValueError, match=r"no path|does not exist"):
        load("x" * 5000)


def test_mappings_and_modules_that_are_no_models():
    with pytest.raises(ValueError, match="names to tensors"):
        load({})
    with pytest.raises(ValueError, match="names to tensors"):
        load({3: torch.zeros(1)})
    with pytest.raises(ValueError, match="not a network that is known here"):
        load(nn.Conv2d(3, 3, 3))
