"""Files appear whole or not at all, and damage is found."""

import json

import pytest
import torch
from safetensors.torch import save_file

from ctm_fast.checkpoints import DamagedCheckpoint
from ctm_fast.checkpoints.files import (
    checksum,
    not_finite,
    read_header,
    read_tensors,
    remove_temporaries,
    write_tensors,
    write_text,
)


def tensors():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4, 2, 2, generator=generator)
    return {
        "weight": weight.to(memory_format=torch.channels_last),
        "view": weight[1:, ::2],
        "half": weight.bfloat16(),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "tied": weight,
        "tied.again": weight,
    }


def test_round_trip_of_every_layout_and_dtype(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors(), {"step": 3, "name": "ü"})
    found, header = read_tensors(path)
    assert header == {"step": 3, "name": "ü"}
    assert found.keys() == tensors().keys()
    for name, value in tensors().items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
    assert read_header(path)["step"] == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_files_have_the_usual_permissions(tmp_path):
    write_tensors(tmp_path / "a.safetensors", tensors(), {})
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.zeros(2)}, {})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_tensors(path, {"x": torch.ones(2)}, {"bad": object()})
    with pytest.raises(ValueError, match=r"NaN|JSON"):
        write_tensors(path, {"x": torch.ones(2)}, {"bad": float("nan")})
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_every_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.arange(4.0), "y": torch.tensor(2)}, {"step": 1})
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x01]) + data[at + 1 :])
        with pytest.raises(ValueError, match=r"a\.safetensors"):
            read_tensors(path)


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.arange(4.0)}, {"step": 1})
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(DamagedCheckpoint, match=r"a\.safetensors"):
            read_tensors(path)


def test_files_of_others_are_refused(tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not one of ctm_fast"):
        read_header(foreign)
    save_file({"x": torch.zeros(1)}, foreign, metadata={"ctm_fast": "[1]"})
    with pytest.raises(DamagedCheckpoint, match="unreadable header"):
        read_header(foreign)
    with pytest.raises(ValueError, match="is a folder"):
        read_header(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        read_header(tmp_path / "absent.safetensors")


def test_the_checksum_covers_names_shapes_dtypes_values_and_header():
    x = torch.arange(4.0)
    variants = [
        checksum({"x": x}, {"a": 1}),
        checksum({"x": x}, {"a": 2}),
        checksum({"y": x}, {"a": 1}),
        checksum({"x": x.reshape(2, 2)}, {"a": 1}),
        checksum({"x": x.view(torch.int32)}, {"a": 1}),
        checksum({"x": x + 1}, {"a": 1}),
    ]
    assert len(set(variants)) == len(variants)
    assert variants[0] == checksum({"x": x.clone()}, {"a": 1})


def test_small_helpers(tmp_path):
    write_text(tmp_path / "a.json", json.dumps({"a": 1}))
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    for name in (".tmp-a", ".tmpXy12"):
        (tmp_path / name).touch()
    remove_temporaries(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    bad = {"a": torch.tensor([1.0, float("inf")]), "b": torch.ones(2), "c": torch.tensor(3)}
    assert not_finite(bad) == ["a"]
