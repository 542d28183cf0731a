"""Tensors in a plain pickle, each storage in a nested file of torch.save."""

import io
import os
import pickle

import pytest
import torch

from ctm_fast.checkpoints.files import DamagedCheckpoint
from ctm_fast.checkpoints.pickled_tensors import TENSORS, Storage, Stored, Tensors
from ctm_fast.pickle_machine import read_pickle

ALLOWED = {**TENSORS, "collections.OrderedDict": TENSORS["torch.Size"].__class__(dict)}


def saved(value, archive=False):
    """What torch.save writes, by default in its older format."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=archive)
    return file.getvalue()


def storage(size=6):
    return Storage(saved(torch.arange(float(size))._typed_storage()))


def stored(data=None, offset=0, size=(2, 3), stride=(3, 1)):
    return Stored(data or storage(), offset, size, stride)


def back(value, limit=1 << 20):
    found = read_pickle(io.BytesIO(pickle.dumps(value)), ALLOWED)
    assert isinstance(found, Stored)
    return Tensors(limit).read(found, "weight")


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8],
    ids=str,
)
@pytest.mark.parametrize("size", [(), (3,), (2, 3), (0, 4), (500,)], ids=str)
def test_as_torch_reads_them(size, dtype):
    value = torch.randn(size).mul(9).to(dtype)
    for tensor in (value, value.t() if value.ndim == 2 else value):
        found = back(tensor)
        assert torch.equal(found, tensor) and found.dtype is dtype
        assert found.stride() == tensor.stride()


def test_parameters_and_views():
    value = torch.nn.Parameter(torch.randn(4, 5))
    assert torch.equal(back(value), value) and not back(value).requires_grad
    assert torch.equal(back(value.detach()[1:, ::2]), value[1:, ::2])


def test_tensors_of_one_storage_share_it():
    read, both = Tensors(1 << 20), storage()
    first, second = (read.read(stored(both, offset, (3,), (1,)), "w") for offset in (0, 3))
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    assert second.tolist() == [3.0, 4.0, 5.0]


class Runs:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch CTM_FAST_TEST_WAS_RUN",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: saved(Runs()), r"weight is damaged or not a plain storage, and nothing of it was"),
        (lambda: saved({"a": Runs()}), "nothing of it was run"),
        (lambda: saved(torch.ones(3)), "weight is a Tensor"),
        (lambda: saved({"a": 1}), "weight is a dict"),
        (
            lambda: saved(torch.ones(3)._typed_storage(), archive=True),
            "not one that torch.save wrote",
        ),
        (lambda: pickle.dumps(Runs()), "not one that torch.save wrote"),
        (lambda: b"", "not one that torch.save wrote"),
        (lambda: b"x" * 1000, "not one that torch.save wrote"),
        (lambda: saved(torch.ones(30)._typed_storage())[:-60], "damaged"),
        (lambda: saved(torch.ones(30)._typed_storage())[:200], "damaged"),
    ],
)
def test_storages_of_something_else(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        Tensors(1 << 20).read(stored(Storage(content())), "weight")
    assert not list(tmp_path.iterdir()), "something was run"


def test_a_storage_that_says_it_is_huge():
    data = saved(torch.ones(30)._typed_storage())
    huge = data.replace(b"K\x1e", b"\x8a\x07" + (10**16).to_bytes(7, "little"))
    assert huge != data
    with pytest.raises(ValueError, match="storage of weight"):
        Tensors(1 << 20).read(stored(Storage(huge)), "weight")


def test_storages_larger_than_their_file():
    read, ones = Tensors(60), [storage(6) for _ in range(3)]
    for one in ones[:2]:
        read.read(stored(one), "a")
    with pytest.raises(ValueError, match="larger than its file"):
        read.read(stored(ones[2]), "b")
    read.read(stored(ones[0]), "the first again")


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (1, (2, 3), (3, 1)),
        (0, (7,), (1,)),
        (0, (2, 3), (4, 1)),
        (6, (1,), (0,)),
        (2**40, (1,), (1,)),
    ],
)
def test_tensors_outside_of_their_storage(offset, size, stride):
    with pytest.raises(DamagedCheckpoint, match="does not fit its storage"):
        Tensors(1 << 20).read(stored(None, offset, size, stride), "weight")


@pytest.mark.parametrize(
    "arguments",
    [
        (b"bytes", 0, (1,), (1,)),
        (storage(), -1, (1,), (1,)),
        (storage(), 0, (-1,), (1,)),
        (storage(), 0, (2,), (-1,)),
        (storage(), 0, (1.0,), (1,)),
        (storage(), True, (1,), (1,)),
        (storage(), 0, (1, 1), (1,)),
        (storage(), 0, (1,) * 9, (1,) * 9),
        (storage(), 0, 3, (1,)),
        (storage(), 2**60, (1,), (1,)),
    ],
)
def test_bad_descriptions(arguments):
    with pytest.raises(TypeError):
        TENSORS["torch._utils._rebuild_tensor_v2"].make(*arguments)


def test_bad_parts():
    for name, bad in (
        ("torch._utils._rebuild_parameter", (3, True)),
        ("torch.storage._load_from_bytes", ("text",)),
        ("torch.Size", (3,)),
        ("torch.device", (3,)),
    ):
        with pytest.raises(TypeError):
            TENSORS[name].make(*bad)
    assert TENSORS["torch.device"].make("cuda", 0) == "cuda"
    assert TENSORS["torch.Size"].make([1, 2]) == (1, 2)
    assert TENSORS["torch.float16"].value == "torch.float16"
