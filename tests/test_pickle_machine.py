"""The reader of pickles: the same plain values as Python's, and a refusal of everything else."""

import io
import math
import pickle
import struct
from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctm_fast.pickle_machine import Allowed, Blob, DamagedPickle, read_pickle

KEYS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=20), st.binary(max_size=9)
)
LEAVES = st.one_of(KEYS, st.floats(allow_nan=False), st.integers(-(2**70), 2**70))
VALUES = st.recursive(
    LEAVES,
    lambda inside: st.one_of(
        st.lists(inside, max_size=5),
        st.dictionaries(KEYS, inside, max_size=5),
        st.tuples(inside),
        st.tuples(inside, inside),
        st.tuples(inside, inside, inside),
        st.lists(inside, min_size=4, max_size=6).map(tuple),
        st.sets(KEYS, max_size=4),
        st.frozensets(KEYS, max_size=4),
    ),
    max_leaves=20,
)


class Note:
    """Something that an allow-list makes."""

    def __init__(self, *args):
        self.args, self.state = args, None

    def build(self, state):
        self.state = state


ALLOWED = {
    "builtins.complex": Allowed(Note),
    "collections.OrderedDict": Allowed(dict),
    "torch.float32": Allowed(value="float32"),
}


def read(data, allowed=ALLOWED, **options):
    return read_pickle(io.BytesIO(data), allowed, **options)


def op(*parts):
    """A pickle of protocol 4 from raw operations."""
    return b"\x80\x04" + b"".join(parts) + b"."


@settings(max_examples=150, deadline=None)
@given(VALUES, st.integers(4, 5))
def test_plain_values_as_python_reads_them(value, protocol):
    data = pickle.dumps(value, protocol)
    found = read(data)
    assert found == value and repr(found) == repr(pickle.loads(data))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(protocol):
    shared = [1.5, "text", 2**40, -3, None, True]
    value = {"a": shared, "b": (shared, shared), "long": list(range(3000)), 7: "é" * 300}
    found = read(pickle.dumps(value, protocol))
    assert found == value
    assert found["a"] is found["b"][0] is found["b"][1], "shared objects stay shared"


def test_an_object_inside_itself():
    value = {}
    value["self"] = [value]
    found = read(pickle.dumps(value))
    assert found["self"][0] is found


def test_long_byte_strings_stay_in_the_file():
    data = {"short": b"x" * 256, "long": b"y" * 257, "longer": bytes(range(256)) * 300}
    file = io.BytesIO(pickle.dumps(data))
    found = read_pickle(file, {})
    assert found["short"] == data["short"]
    for name in ("long", "longer"):
        assert isinstance(found[name], Blob) and found[name].length == len(data[name])
        assert found[name].read() == data[name]
    file.truncate(300)
    with pytest.raises(DamagedPickle, match="has become shorter"):
        found["longer"].read()


def test_what_an_allow_list_makes():
    ordered = OrderedDict(a=1)
    ordered.note = "kept by Python, not here"
    found = read(pickle.dumps([complex(3, 4), ordered], protocol=4))
    assert isinstance(found[0], Note) and found[0].args == (3.0, 4.0) and found[1] == {"a": 1}
    built = op(b"cbuiltins\ncomplex\n", b")", b"\x81", b"}", b"\x8c\x01a", b"K\x05", b"s", b"b")
    assert read(built).state == {"a": 5}
    assert read(op(b"ctorch\nfloat32\n")) == "float32"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (op(b"cos\nsystem\n"), "'os.system', which is not among the 3 names"),
        (op(b"\x8c\x02os", b"\x8c\x06system", b"\x93"), "'os.system'"),
        (op(b"cbuiltins\ncomplex.__init__\n"), r"complex.__init__'"),
        (op(b"cbuiltins\n" + b"x" * 400 + b"\n"), r"builtins\.xxx"),
        (op(b"\x8c\x01f", b")", b"R"), "calls a str"),
        (op(b"ctorch\nfloat32\n", b")", b"R"), "calls a str"),
        (op(b"cbuiltins\ncomplex\n", b"K\x01", b"R"), "calls a _Symbol"),
        (op(b"cbuiltins\ncomplex\n", b")", b"R", b")", b"R"), "calls a Note"),
        (op(b"]", b"}", b"b"), "gives a state to a list"),
        (op(b"cbuiltins\ncomplex\n", b"}", b"b"), "gives a state to a _Symbol"),
        (op(b"}", b"K\x01", b"a"), "appends to a dict"),
        (op(b"cbuiltins\ncomplex\n", b")", b"R", b"K\x01", b"a"), "appends to a Note"),
        (op(b"]", b"(", b"K\x01", b"\x90"), "adds to a list"),
        (op(b"]", b"K\x01", b"K\x02", b"s"), "sets items of a list"),
        (op(b"}", b"(", b"K\x01", b"u"), "sets items of a dict"),
        (op(b"}", b")", b"\x85", b"N", b"s"), "key of type tuple"),
        (op(b"\x8f", b"(", b"]", b"\x90"), "key of type list"),
        (op(b"}", b"G" + struct.pack(">d", math.nan), b"N", b"s"), "key of type float"),
        (op(b"K\x00", b"Q"), r"operation b'Q' at byte 4"),
        (op(b"\x82\x01"), "which no network file needs"),
        (op(b"(i__main__\nX\n"), r"operation b'i'"),
        (op(b"\x92"), "which no network file needs"),
        (op(b"\x97"), "which no network file needs"),
    ],
)
def test_refusals(data, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(data)
    assert not isinstance(caught.value, DamagedPickle)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"PK\x03\x04",
        b"(lp0\n.",
        b"\x80\x01N.",
        b"\x80\x06N.",
        b"\x80\x04",
        op(b""),
        op(b"R"),
        op(b"N", b"h\x05"),
        op(b"\x94"),
        op(b"a"),
        op(b"K\x01", b"\x86"),
        op(b"t"),
        op(b"\x8c\x02\xff\xff"),
        op(b"\x8b" + struct.pack("<i", -1)),
        op(b"\x8b" + struct.pack("<i", 2**31 - 1)),
        op(b"\x8e" + struct.pack("<Q", 2**63 - 1)),
        op(b"\x8d" + struct.pack("<Q", 2**64 - 1)),
        op(b"\x96" + struct.pack("<Q", 2**60)),
        op(b"B" + struct.pack("<I", 2**32 - 1)),
        op(b"\x95" + b"\x00" * 3),
        op(b"cos"),
        op(b"c" + b"x" * 2000 + b"\n"),
        op(b"K\x01", b"K\x02", b"\x93"),
    ],
)
def test_damage(data):
    with pytest.raises(DamagedPickle):
        read(data)


def test_every_truncation():
    data = pickle.dumps({"a": [1, 2.5, "x", b"y" * 300], "b": ({1, 2}, None, 2**90)})
    for length in range(len(data)):
        with pytest.raises(DamagedPickle):
            read(data[:length])


def test_unfitting_arguments():
    with pytest.raises(DamagedPickle, match="OrderedDict with unfitting arguments"):
        read(op(b"ccollections\nOrderedDict\n", b"K\x01", b"\x85", b"R"))


def test_too_many_operations():
    assert read(op(b"N" * 10), max_operations=11) is None
    with pytest.raises(ValueError, match="more than 10 operations; it was given up"):
        read(op(b"N" * 10), max_operations=10)


def test_nesting_costs_no_recursion():
    """A million lists in each other, and 2^200 references to one."""
    deep = read(op(b"]" * 200_000 + b"a" * 199_999))
    assert len(deep) == 1
    wide = read(
        op(b"]\x94", *(b"]\x94(h" + bytes([i]) + b"h" + bytes([i]) + b"e" for i in range(200)))
    )
    assert len(wide) == 2


def test_strings_of_python_2_are_bytes():
    data = op(b"U\x03abc", b"T" + struct.pack("<i", 300) + b"\xff" * 300, b"\x86")
    short, long = read(data)
    assert short == b"abc"
    assert isinstance(long, Blob) and long.read() == b"\xff" * 300
    with pytest.raises(DamagedPickle, match="truncated"):
        read(op(b"T" + struct.pack("<i", -1)))


def test_errors_name_the_kind_of_file():
    with pytest.raises(ValueError, match="that a CIFAR batch may use"):
        read(op(b"cos\nsystem\n"), kind="CIFAR batch")
