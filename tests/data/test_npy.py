"""The .npy format: numbers of any order and size, never objects."""

from __future__ import annotations

import io
import pickle
import random

import numpy as np
import pytest

from ctm_fast.data.npy import read_array, read_header


def stored(array, **options) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **options)
    return buffer.getvalue()


def read(content):
    header = read_header(io.BytesIO(content), len(content))
    return header, read_array(io.BytesIO(content), header)


@pytest.mark.parametrize("kind", ["u1", "<i8", ">i4", "f4", "?"])
def test_arrays_come_back(kind):
    values = (np.arange(24).reshape(2, 3, 4) % 5).astype(kind)
    for array in (values, np.asfortranarray(values), values[:0]):
        header, found = read(stored(array))
        assert header.shape == array.shape and header.dtype == array.dtype
        assert np.array_equal(found, array) and found.dtype == array.dtype


def test_objects_are_refused_before_anything_is_read():
    class Bomb:
        def __reduce__(self):
            raise AssertionError

    content = stored(np.array([{}], object), allow_pickle=True)
    assert pickle.loads(content[128:]) is not None
    with pytest.raises(ValueError, match="an array of objects, which only a pickle can hold"):
        read(content)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(2, [("a", "u1")]), "allowed are plain numbers"),
        (np.array(["a"]), "allowed are plain numbers"),
        (np.zeros(2, "M8[s]"), "allowed are plain numbers"),
        (np.zeros(2, "c8"), "allowed are plain numbers"),
    ],
)
def test_other_dtypes_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        read(stored(array))


def with_header(text: str, data: bytes = b"") -> bytes:
    header = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        stored(np.zeros(3))[:-1],
        stored(np.zeros(3)) + b"x",
        stored(np.zeros(3, [("é", "u1")]), version=(3, 0)),
        with_header("{'descr': '|u1', 'fortran_order': False, 'shape': (9,)}", b"1"),
        with_header("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -1)}", b"1"),
        with_header("{'descr': '|u1', 'fortran_order': False, 'shape': (2**40,)}", b"1"),
        with_header("{'descr': '|u1', 'fortran_order': False, 'shape': (True,)}", b"1"),
        with_header("__import__('os').system('true')"),
        with_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"1" * 8),
        with_header("[" * 110),
    ],
)
def test_headers_that_do_not_fit(content):
    with pytest.raises(ValueError):
        read(content)


def test_no_header_of_gigabytes_is_read():
    class File(io.BytesIO):
        """A member that goes on for ever."""

        def read(self, count=-1):
            assert 0 <= count < 2**17
            return super().read(count)

    long = b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + b" " * 100
    with pytest.raises(ValueError, match=r"\.npy version \(2, 0\), allowed is \(1, 0\)"):
        read_header(File(long), 2**40)


def test_the_file_becomes_shorter():
    content = stored(np.zeros(3))
    header = read_header(io.BytesIO(content), len(content))
    with pytest.raises(ValueError, match="another length"):
        read_array(io.BytesIO(content[:-1]), header)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_gives_an_array_or_a_value_error():
    content = stored(np.arange(6, dtype=np.int16))
    generator = random.Random(0)
    for _ in range(1000):
        damaged = bytearray(content)
        for _ in range(generator.randint(1, 3)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        try:
            _, found = read(bytes(damaged))
            assert found.nbytes == 12
        except ValueError:
            pass
