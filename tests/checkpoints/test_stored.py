"""Tensors of a file one at a time: exact, owned, and refused where the file is not whole."""

import pytest
import torch
from safetensors.torch import save_file

from ctm_fast.checkpoints import DamagedCheckpoint
from ctm_fast.checkpoints.stored import StoredTensors

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor(2, dtype=torch.int64),
    "c": torch.ones(3, dtype=torch.bfloat16),
    "d": torch.zeros(0, 4),
}


@pytest.fixture
def path(tmp_path):
    save_file(TENSORS, tmp_path / "a.safetensors", metadata={"who": "me"})
    return tmp_path / "a.safetensors"


def test_a_mapping_that_reads_when_asked(path):
    stored = StoredTensors(path)
    assert stored.metadata == {"who": "me"}
    assert set(stored) == set(TENSORS)
    assert len(stored) == 4
    for name, value in TENSORS.items():
        assert torch.equal(stored[name], value)
        assert stored.meta[name].is_meta
        assert (stored.meta[name].shape, stored.meta[name].dtype) == (value.shape, value.dtype)
    with pytest.raises(KeyError):
        stored["absent"]


def test_what_is_read_is_owned(path):
    stored = StoredTensors(path)
    value = stored["a"]
    assert value.untyped_storage().nbytes() == value.nbytes
    value.fill_(7)
    assert torch.equal(stored["a"], TENSORS["a"])
    path.write_bytes(b"")
    assert value.eq(7).all(), "the file is not needed any more"


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_truncated_files(path, share):
    data = path.read_bytes()
    stored = StoredTensors(path)
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DamagedCheckpoint, match=r"a\.safetensors"):
        StoredTensors(path)
    with pytest.raises(DamagedCheckpoint, match=r"a\.safetensors"):
        stored["a"]
