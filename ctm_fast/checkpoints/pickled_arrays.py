"""NumPy's numbers and arrays in a pickle, under the names of old and new releases."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..pickle_machine import Allowed, Blob

_CODE = re.compile(r"[<>|=]?[biuf][1248]$")


class Kind:
    """A NumPy dtype of plain numbers."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if type(code) is not str or not _CODE.match(code):
            # The text of tuples inside of tuples may never end.
            shown = repr(code[:40]) if type(code) is str else f"of a {type(code).__name__}"
            raise ValueError(f"the pickle has a NumPy dtype {shown}; it may not")
        self.code = code

    def build(self, state: Any) -> None:
        """Take the byte order.

        Raises:
            ValueError: for anything but a plain number's state.
        """
        if type(state) is not tuple or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("the pickle has a NumPy dtype that is not a plain number")
        if any(part is not None for part in state[2:5]):
            raise ValueError("the pickle has a structured NumPy dtype; it may not")
        self.code = state[1] + self.code.lstrip("<>|=")


class Array:
    """A NumPy array that has not been looked at."""

    def __init__(self, *described: Any) -> None:
        self.described = described

    def build(self, state: Any) -> None:
        """Take what describes it."""
        self.described = state


@dataclass(frozen=True)
class Scalar:
    """A NumPy number."""

    value: int | float | bool


def number(value: Any) -> Any:
    """The Python number of a `Scalar`; anything else as it is."""
    return value.value if isinstance(value, Scalar) else value


def _scalar(kind: Any, data: Any) -> Scalar:
    if not isinstance(kind, Kind) or type(data) is not bytes:
        raise TypeError
    dtype = np.dtype(kind.code)
    if len(data) != dtype.itemsize:
        raise TypeError
    return Scalar(np.frombuffer(data, dtype)[0].item())


def _empty_array(cls: Any, shape: Any, code: Any) -> Array:
    return Array()


def _buffer_array(data: Any, kind: Any, shape: Any, order: Any) -> Array:
    if not isinstance(kind, Kind) or not isinstance(data, bytes | Blob):
        raise TypeError
    return Array(data, kind, shape, order)


def _nothing() -> None:
    raise ValueError("the pickle makes a NumPy array in an unusual way; it was not run")


# NumPy 2 renamed numpy.core to numpy._core.
ARRAYS = {
    "numpy.dtype": Allowed(Kind),
    "numpy.ndarray": Allowed(_nothing),
    **{
        f"numpy.{core}.{name}": Allowed(make)
        for core in ("core", "_core")
        for name, make in (
            ("multiarray.scalar", _scalar),
            ("multiarray._reconstruct", _empty_array),
            ("numeric._frombuffer", _buffer_array),
        )
    },
}
