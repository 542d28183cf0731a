"""NumPy's numbers and arrays in a pickle."""

import io
import pickle

import numpy as np
import pytest

from ctm_fast.checkpoints.pickled_arrays import ARRAYS, Array, Kind, number
from ctm_fast.pickle_machine import read_pickle


def read(value, protocol=4):
    return read_pickle(io.BytesIO(pickle.dumps(value, protocol)), ARRAYS)


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize(
    "value",
    [
        np.float64(0.1),
        np.float32(-2.5),
        np.float16(1.5),
        np.int64(-7),
        np.uint8(200),
        np.bool_(True),
        np.array(3.5, dtype=">f8")[()],
    ],
    ids=repr,
)
def test_numbers(value, protocol):
    found = number(read(value, protocol))
    assert found == value.item() and type(found) is type(value.item())


def test_a_dtype_without_end_is_not_shown():
    doubled = b")q\x00" + b"0h\x00h\x00\x86q\x00" * 25  # its text has 2**25 parts
    content = b"\x80\x02cnumpy\ndtype\n" + doubled + b"\x85R."
    with pytest.raises(ValueError, match="NumPy dtype of a tuple; it may not"):
        read_pickle(io.BytesIO(content), ARRAYS)


def test_big_endian_numbers():
    kind = Kind("f8", False, True)
    kind.build((3, ">", None, None, None, -1, -1, 0))
    made = ARRAYS["numpy.core.multiarray.scalar"].make(kind, np.array(2.5, ">f8").tobytes())
    assert number(made) == 2.5


def test_the_name_of_older_releases():
    data = pickle.dumps(np.float64(0.25), 4)
    assert b"numpy._core.multiarray" in data or b"numpy.core.multiarray" in data
    for core in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        for written in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
            old = bytes([0x8C, len(written)]) + written
            changed = data.replace(old, bytes([0x8C, len(core)]) + core)
            assert number(read_pickle(io.BytesIO(changed), ARRAYS)) == 0.25


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays_are_passed_over(protocol):
    for value in (np.arange(3.0), np.zeros((20, 30)), np.zeros((2, 3), order="F")):
        assert isinstance(read(value, protocol), Array)


def test_everything_else_as_it_is():
    assert number(3) == 3 and number("text") == "text" and number(None) is None


@pytest.mark.parametrize(
    "value",
    [
        np.dtype("O"),
        np.dtype("U5"),
        np.dtype([("a", "f8")]),
        np.dtype(("f8", (2,))),
        np.dtype("M8[s]"),
        np.dtype("V8"),
    ],
    ids=str,
)
def test_other_kinds(value):
    with pytest.raises(ValueError, match="NumPy dtype"):
        read(value)


@pytest.mark.parametrize(
    "state", [None, (3,), (3, "?", None, None, None), (3, "<", None, ("a",), {"a": 1}, 8, 1, 0)]
)
def test_other_states(state):
    with pytest.raises(ValueError, match="NumPy dtype"):
        Kind("f8").build(state)


def test_bad_parts():
    scalar = ARRAYS["numpy._core.multiarray.scalar"].make
    buffer = ARRAYS["numpy._core.numeric._frombuffer"].make
    for make, arguments in (
        (scalar, ("f8", b"\x00" * 8)),
        (scalar, (Kind("f8"), b"\x00" * 7)),
        (scalar, (Kind("f8"), "text")),
        (buffer, ("text", Kind("f8"), (1,), "C")),
        (buffer, (b"\x00" * 8, "f8", (1,), "C")),
    ):
        with pytest.raises(TypeError):
            make(*arguments)
    with pytest.raises(ValueError, match="in an unusual way"):
        ARRAYS["numpy.ndarray"].make()
    for code in (3, "f3", "O", "<f8,f8", "x" * 1000):
        with pytest.raises(ValueError, match="NumPy dtype"):
            Kind(code)
