"""A reader of pickles that runs nothing: plain values, and what an allow-list makes of the rest.

It knows the operations that pickles of protocol 2 to 5 consist of. A global name is looked up in a
table of ours and nowhere else; what is not in the table is refused by its name. Long byte strings
stay in the file until they are asked for. The strings of Python 2 are byte strings here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

MAX_OPERATIONS = 5_000_000  # published network files have less than 200000
_MAX_DIGITS = 256  # bytes of a stored integer
_MAX_NAME = 512  # characters of a global name
_SHORT = 256  # byte strings up to this length are read at once
_KEYS = (str, int, float, bool, bytes, type(None))


class DamagedPickle(ValueError):
    """Something that is no pickle, or only part of one."""


@dataclass(frozen=True)
class Allowed:
    """What a global name of the allow-list stands for.

    Where an object that `make` returns has a method `build(state)`, a pickle may give it a state.
    """

    make: Callable[..., Any] | None = None  # called with the arguments that the pickle names
    value: Any = None  # the value itself, where `make` is None


@dataclass(frozen=True)
class Blob:
    """A long byte string that is still in the file."""

    file: BinaryIO
    start: int  # offset in the file
    length: int  # bytes

    def read(self) -> bytes:
        """The bytes.

        Raises:
            DamagedPickle: if the file has become shorter.
        """
        self.file.seek(self.start)
        data = self.file.read(self.length)
        if len(data) != self.length:
            raise DamagedPickle("the file has become shorter while it was read")
        return data


@dataclass(frozen=True)
class _Symbol:
    name: str
    make: Callable[..., Any]


def read_pickle(
    file: BinaryIO,
    allowed: Mapping[str, Allowed],
    max_operations: int = MAX_OPERATIONS,
    kind: str = "network file",
) -> Any:
    """The object that a pickle describes, as far as `allowed` goes.

    Args:
        file: seekable; must stay open as long as a `Blob` of the result is read.
        allowed: what the globals "module.name" stand for.
        max_operations: of the pickle; each makes at most one object.
        kind: what errors call such a file.

    Raises:
        ValueError: for a global or an operation that is not allowed, naming it.
        DamagedPickle: for something that is no pickle, or only part of one.
    """
    machine = _Machine(file, allowed, kind)
    try:
        return machine.run(max_operations)
    except (IndexError, KeyError, TypeError, struct.error, UnicodeError, OverflowError) as error:
        reason = f"{type(error).__name__} at byte {machine.position}"
        raise DamagedPickle(f"damaged, or not a pickle ({reason})") from None


class _Machine:
    def __init__(self, file: BinaryIO, allowed: Mapping[str, Allowed], kind: str) -> None:
        self.file, self.allowed, self.kind = file, allowed, kind
        self.position = 0
        self.size = file.seek(0, 2)
        file.seek(0)
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each open mark
        self.memo: dict[int, Any] = {}

    def run(self, limit: int) -> Any:
        if self.size < 2 or self.take(1) != b"\x80" or not 2 <= self.byte() <= 5:
            raise DamagedPickle("not a pickle of protocol 2 to 5")
        for _ in range(limit):
            code = self.byte()
            if code == ord("."):
                return self.stack.pop()
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise ValueError(
                    f"the pickle uses operation {bytes([code])!r} at byte {self.position - 1}, "
                    f"which no {self.kind} needs; it was not run"
                )
            operation(self)
        raise ValueError(f"the pickle has more than {limit} operations; it was given up")

    def take(self, count: int) -> bytes:
        self.reserve(count)
        data = self.file.read(count)
        if len(data) != count:
            raise DamagedPickle(f"the file could not be read at byte {self.position}")
        return data

    def reserve(self, count: int) -> None:
        if count > self.size - self.position:
            raise DamagedPickle(
                f"truncated: {count} bytes are missing after byte {self.position} of {self.size}"
            )
        self.position += count

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        text = self.file.readline(_MAX_NAME)
        self.position += len(text)
        if not text.endswith(b"\n"):
            raise DamagedPickle(f"truncated: a name does not end, byte {self.position}")
        return text[:-1].decode()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def marked(self) -> list[Any]:
        """Values since the last mark, taken off."""
        values, self.stack = self.stack, self.below.pop()
        return values

    def text(self, length: int) -> None:
        self.push(self.take(length).decode("utf-8", "surrogatepass"))

    def binary(self, length: int) -> None:
        if length <= _SHORT:
            self.push(self.take(length))
            return
        start = self.position
        self.reserve(length)
        self.file.seek(length, 1)
        self.push(Blob(self.file, start, length))

    def integer(self, length: int) -> None:
        if not 0 <= length <= _MAX_DIGITS:
            raise DamagedPickle(f"an integer of {length} bytes, byte {self.position}")
        self.push(int.from_bytes(self.take(length), "little", signed=True))

    def find(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise DamagedPickle(f"a global without a name, byte {self.position}")
        full = f"{module}.{name}"
        entry = self.allowed.get(full)
        if entry is None:
            raise ValueError(
                f"the pickle asks for {full[:200]!r}, which is not among the "
                f"{len(self.allowed)} names that a {self.kind} may use; nothing of it was run"
            )
        self.push(entry.value if entry.make is None else _Symbol(full, entry.make))

    def find_stacked(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.find(module, name)

    def call(self) -> None:
        arguments, symbol = self.stack.pop(), self.stack.pop()
        if not isinstance(symbol, _Symbol) or not isinstance(arguments, tuple):
            raise ValueError(
                f"the pickle calls a {type(symbol).__name__}, which is not on the allow-list; "
                "it was not run"
            )
        try:
            self.push(symbol.make(*arguments))
        except TypeError:
            raise DamagedPickle(f"{symbol.name} with unfitting arguments") from None

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        build = getattr(target, "build", None)
        # What torch notes on an ordered dict of weights is not needed.
        if build is None and type(target) is not dict:
            raise ValueError(f"the pickle gives a state to a {type(target).__name__}; it may not")
        if build is not None:
            build(state)

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError(f"the pickle appends to a {type(target).__name__}; it may not")
        target.extend(values)

    def add(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not set:
            raise ValueError(f"the pickle adds to a {type(target).__name__}; it may not")
        target.update(hashable(values))

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(values) % 2:
            raise ValueError(f"the pickle sets items of a {type(target).__name__}; it may not")
        target.update(zip(hashable(values[::2]), values[1::2], strict=True))

    def last(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise IndexError
        values = self.stack[-count:]
        del self.stack[-count:]
        return values


def hashable(values: list[Any]) -> list[Any]:
    """The values, all of them fit to be keys.

    Raises:
        ValueError: for others: the hash of nested tuples can take for ever.
    """
    for value in values:
        if type(value) not in _KEYS or (isinstance(value, float) and math.isnan(value)):
            raise ValueError(f"the pickle has a key of type {type(value).__name__}; it may not")
    return values


def _mark(m: _Machine) -> None:
    m.below.append(m.stack)
    m.stack = []


_OPERATIONS: dict[int, Callable[[_Machine], Any]] = {
    ord(code): operation
    for code, operation in {
        "\x95": lambda m: m.take(8),  # FRAME: only a hint for buffering
        "(": _mark,
        "0": lambda m: m.stack.pop(),
        "1": lambda m: m.marked(),
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "J": lambda m: m.push(m.number("<i")),
        "K": lambda m: m.push(m.byte()),
        "M": lambda m: m.push(m.number("<H")),
        "\x8a": lambda m: m.integer(m.byte()),
        "\x8b": lambda m: m.integer(m.number("<i")),
        "G": lambda m: m.push(m.number(">d")),
        "X": lambda m: m.text(m.number("<I")),
        "\x8c": lambda m: m.text(m.byte()),
        "\x8d": lambda m: m.text(m.number("<Q")),
        "U": lambda m: m.binary(m.byte()),  # a string of Python 2
        "T": lambda m: m.binary(m.number("<I")),
        "B": lambda m: m.binary(m.number("<I")),
        "C": lambda m: m.binary(m.byte()),
        "\x8e": lambda m: m.binary(m.number("<Q")),
        "\x96": lambda m: m.binary(m.number("<Q")),  # a bytearray
        ")": lambda m: m.push(()),
        "\x85": lambda m: m.push(tuple(m.last(1))),
        "\x86": lambda m: m.push(tuple(m.last(2))),
        "\x87": lambda m: m.push(tuple(m.last(3))),
        "t": lambda m: m.push(tuple(m.marked())),
        "]": lambda m: m.push([]),
        "a": lambda m: m.append(m.last(1)),
        "e": lambda m: m.append(m.marked()),
        "}": lambda m: m.push({}),
        "s": lambda m: m.set_items(m.last(2)),
        "u": lambda m: m.set_items(m.marked()),
        "\x8f": lambda m: m.push(set()),
        "\x90": lambda m: m.add(m.marked()),
        "\x91": lambda m: m.push(frozenset(hashable(m.marked()))),
        "q": lambda m: m.memo.update({m.byte(): m.stack[-1]}),
        "r": lambda m: m.memo.update({m.number("<I"): m.stack[-1]}),
        "\x94": lambda m: m.memo.update({len(m.memo): m.stack[-1]}),
        "h": lambda m: m.push(m.memo[m.byte()]),
        "j": lambda m: m.push(m.memo[m.number("<I")]),
        "c": lambda m: m.find(m.line(), m.line()),
        "\x93": lambda m: m.find_stacked(),
        "R": lambda m: m.call(),
        "\x81": lambda m: m.call(),  # NEWOBJ: a class and its arguments
        "b": lambda m: m.build(),
    }.items()
}
