"""Files of torch.save: what is read, and what is refused before anything is run."""

import argparse
import os
import pickle
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ctm_fast.checkpoints.files import DamagedCheckpoint
from ctm_fast.checkpoints.torch_file import read_names, read_noted, read_state

STATE = OrderedDict(
    {
        "a.weight": torch.arange(12.0).reshape(3, 4),
        "a.bias": torch.ones(3, dtype=torch.float16),
        "b": torch.full((2, 2), 0.5, dtype=torch.bfloat16),
    }
)
FUZZ = settings(max_examples=150, deadline=None, derandomize=True)


def saved(path, value, legacy=False):
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.bin", "x.ckpt", "legacy", "x.safetensors"])
def test_states_come_back_in_their_dtype(tmp_path, name):
    path = tmp_path / name
    if name.endswith("safetensors"):
        save_file(STATE, path)
    else:
        saved(path, STATE, legacy=name == "legacy")
    state, notes = read_noted(path)
    assert state.keys() == STATE.keys() and notes == []
    for key, value in STATE.items():
        assert torch.equal(state[key], value) and state[key].dtype == value.dtype
    assert sorted(read_names(str(path))) == sorted(STATE)


def test_nested_states_are_unwrapped_and_said(tmp_path):
    path = saved(tmp_path / "x.pt", {"ema": STATE, "model": {}, "step": 7})
    state, notes = read_noted(path)
    assert state.keys() == STATE.keys() and notes[0].startswith("weights taken from 'ema'")
    two = saved(tmp_path / "y.pt", {"first": STATE, "second": {"c": torch.ones(1)}})
    assert list(read_state(two, which="second")) == ["c"]
    assert read_names(two) == list(STATE)
    with pytest.raises(ValueError, match=r"y.pt: the file holds several states, \['first'"):
        read_state(two)


def test_parameters_become_tensors(tmp_path):
    path = saved(tmp_path / "x.pt", {"w": torch.nn.Parameter(torch.ones(3))})
    value = read_state(path)["w"]
    assert type(value) is torch.Tensor and not value.requires_grad


class Runs:
    def __reduce__(self):
        return os.system, ("touch hostile",)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("value", "named", "guess"),
    [
        ({"w": torch.ones(1), "x": Runs()}, "system", "reading it would run code"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear", "a whole module was saved"),
        ({"w": torch.ones(1), "args": argparse.Namespace(a=1)}, "argparse.Namespace", "settings"),
        ({"w": torch.ones(1), "loss": np.float64(1)}, "numpy", "settings beside the weights"),
        ({"w": torch.ones(1), "x": ValueError("a")}, "ValueError", ""),
    ],
)
def test_other_globals_are_refused_by_name(tmp_path, monkeypatch, value, named, guess, legacy):
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "x.pt", value, legacy)
    for reader in (read_state, read_names):
        with pytest.raises(ValueError, match=f"(?s)needs more than tensors .*{named}.*{guess}"):
            reader(path)
    assert not (tmp_path / "hostile").exists()


def test_training_states_of_edm_are_named(tmp_path):
    """The class need not be there: only its name is looked at."""
    name = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"
    body = pickle.dumps({"net": None}, 2)
    hostile = body[:2] + name + b"0" + body[2:]
    path = tmp_path / "training-state-000000.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", hostile)
        archive.writestr("x/version", "3")
        archive.writestr("x/byteorder", "little")
    with pytest.raises(ValueError, match=r"network-snapshot-\*.pkl of that run .* format='edm'"):
        read_state(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path, value):
    bad = {**STATE, "a.bias": torch.tensor([1.0, value])}
    with pytest.raises(DamagedCheckpoint, match=r"not finite: a\.bias$"):
        read_state(saved(tmp_path / "x.pt", bad))


def test_tensors_that_grow(tmp_path):
    """A few bytes that would need gigabytes as soon as they are copied."""
    path = saved(tmp_path / "x.pt", {"w": torch.ones(1).expand(1 << 30)})
    with pytest.raises(ValueError, match="w repeats 4 bytes to shape"):
        read_state(path)
    base = torch.ones(1000)
    path = saved(tmp_path / "y.pt", {f"w{i}": base for i in range(9)})
    with pytest.raises(ValueError, match="bytes hold tensors of 36000"):
        read_state(path)


@pytest.mark.parametrize(
    "value",
    [torch.eye(3).to_sparse(), torch.empty(2, device="meta")],
    ids=["sparse", "meta"],
)
def test_tensors_without_ordinary_memory(tmp_path, value):
    with pytest.raises(ValueError, match="w is no ordinary tensor"):
        read_state(saved(tmp_path / "x.pt", {"w": value}))


@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_files(tmp_path, legacy):
    path = saved(tmp_path / "x.pt", STATE, legacy)
    whole = path.read_bytes()
    for size in (30, len(whole) // 3, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedCheckpoint, match="truncated or damaged") as raised:
            read_state(path)
        assert "weights_only" not in str(raised.value)


@FUZZ
@given(st.booleans(), st.data())
def test_damage_is_a_clear_error(tmp_path_factory, legacy, data):
    path = saved(tmp_path_factory.mktemp("x") / "x.pt", STATE, legacy)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            state = read_state(path)
        except ValueError as error:
            assert "x.pt" in str(error) and "weights_only" not in str(error)
        else:
            assert state and all(isinstance(value, torch.Tensor) for value in state.values())


def test_pytorch_is_always_asked_for_weights_only(tmp_path, monkeypatch):
    seen, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: seen.append(k) or load(*a, **k))
    read_state(saved(tmp_path / "x.pt", STATE))
    read_names(saved(tmp_path / "y.pt", STATE, legacy=True))
    assert [kwargs["weights_only"] for kwargs in seen] == [True, True]
