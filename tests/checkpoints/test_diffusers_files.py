"""Folders of diffusers: which files are read, and which are refused."""

import json

import pytest
import torch
from safetensors.torch import save_file

from ctm_fast.checkpoints import DamagedCheckpoint
from ctm_fast.checkpoints.diffusers_files import _MOST_BYTES, read_json, read_weights
from tests.diffusers_models import tiny

BASE = "diffusion_pytorch_model"
A, B = {"a": torch.ones(2)}, {"b": torch.zeros(3), "c": torch.ones(1)}


def index(folder, table, ending=".safetensors"):
    (folder / f"{BASE}{ending}.index.json").write_text(json.dumps({"weight_map": table}))


def test_json(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"a": -Infinity}')
    assert read_json(path) == {"a": float("-inf")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no JSON file"),
        (b"{", "is no JSON file"),
        (b"\xff\xfe", "is no JSON file"),
        (b"[" * 100_000, "is no JSON file"),
        (b'{"a": ' + b"1" * 5000 + b"}", "is no JSON file"),
        (b"[1]", "holds a JSON list; need an object"),
        (b" " * (_MOST_BYTES + 1), "is larger than"),
    ],
    ids=["empty", "cut", "bytes", "deep", "long number", "list", "large"],
)
def test_json_that_is_refused(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_json(path)


def test_json_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="is missing"):
        read_json(tmp_path / "config.json")
    with pytest.raises(ValueError, match="is missing"):
        read_json(tmp_path)


def test_the_order_in_which_files_are_looked_for(tmp_path):
    torch.save(B, tmp_path / f"{BASE}.bin")
    assert read_weights(tmp_path)[1] == f"{BASE}.bin"
    save_file(A, tmp_path / "x-1.safetensors")
    index(tmp_path, {"a": "x-1.safetensors"})
    state, name = read_weights(tmp_path)
    assert list(state) == ["a"] and name == f"{BASE}.safetensors.index.json"
    save_file(B, tmp_path / f"{BASE}.safetensors")
    assert set(read_weights(tmp_path)[0]) == {"b", "c"}


def test_a_single_variant_is_taken(tmp_path):
    save_file(A, tmp_path / f"{BASE}.fp16.safetensors")
    assert read_weights(tmp_path)[1] == f"{BASE}.fp16.safetensors"
    save_file(A, tmp_path / f"{BASE}.ema.safetensors")
    with pytest.raises(ValueError, match=r"several variants .*ema.* .*fp16"):
        read_weights(tmp_path)


def test_no_weights(tmp_path):
    (tmp_path / f"{BASE}.msgpack").touch()
    with pytest.raises(ValueError, match=f"has no {BASE}.* it holds {BASE}.msgpack"):
        read_weights(tmp_path)


@pytest.mark.parametrize("safe", [True, False])
def test_shards_that_diffusers_wrote(tmp_path, safe):
    model = tiny("ddpm")
    model.save_pretrained(tmp_path, max_shard_size="30KB", safe_serialization=safe)
    assert len(list(tmp_path.glob("*-of-*"))) > 2
    state, name = read_weights(tmp_path)
    assert name.endswith(".index.json")
    expected = model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    "name",
    ["../a.safetensors", "/a.safetensors", "sub/a.safetensors", "..", "a.pkl", "a\\b.bin", 3, None],
)
def test_shards_outside_the_folder_are_refused(tmp_path, name):
    folder = tmp_path / "unet"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path, folder, folder / "sub"):
        save_file(A, place / "a.safetensors")
    index(folder, {"a": name})
    with pytest.raises(ValueError, match="files in its own folder"):
        read_weights(folder)


def test_shards_that_do_not_hold_what_the_index_says(tmp_path):
    save_file(A, tmp_path / "1.safetensors")
    save_file(B, tmp_path / "2.safetensors")
    for table, message in (
        ({"a": "1.safetensors", "b": "2.safetensors"}, "2.safetensors does not hold .*: c"),
        ({"a": "1.safetensors", "d": "1.safetensors"}, "1.safetensors does not hold .*: d"),
        ({"a": "3.safetensors"}, "3.safetensors is missing, which"),
        ({}, "has no weight_map"),
        (["a"], "has no weight_map"),
    ):
        index(tmp_path, table)
        with pytest.raises(ValueError, match=message):
            read_weights(tmp_path)


def test_damaged_weights(tmp_path):
    path = tmp_path / f"{BASE}.safetensors"
    save_file(A, path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DamagedCheckpoint):
        read_weights(tmp_path)
