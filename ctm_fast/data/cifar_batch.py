"""One CIFAR batch: a pickle of Python 2, read by a machine that runs none of it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ..pickle_machine import Allowed, Blob, read_pickle

MAX_ROWS = 1_000_000
PIXELS = 3 * 32 * 32
_MAX_OPERATIONS = 2_000_000


def read_batch(content: bytes, source: str) -> dict[str, Any]:
    """The dictionary of a batch: numbers, strings, lists of them, and `data` (N, 3072) uint8.

    Strings of Python 2 become text (Latin-1).

    Raises:
        ValueError: for anything else, naming `source`: an object, a call, a damaged file.
    """
    try:
        found = read_pickle(io.BytesIO(content), ALLOWED, _MAX_OPERATIONS, "CIFAR batch")
        if type(found) is not dict:
            raise ValueError(f"holds a {type(found).__name__}, not a dictionary")
        return {_text(name): _plain(value) for name, value in found.items()}
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


class _Kind:
    """The NumPy dtype of bytes, the only one that a batch has."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        if _text(code) != "u1":
            raise ValueError(f"the pickle has a NumPy dtype {_text(code)[:40]!r}, allowed is 'u1'")

    def build(self, state: Any) -> None:
        if type(state) is not tuple or any(part is not None for part in state[2:5]):
            raise ValueError("the pickle has a structured NumPy dtype; it may not")


class _Array:
    """An array of bytes."""

    def __init__(self, cls: Any, shape: Any, code: Any) -> None:
        self.state: tuple[tuple[int, int], bool, bytes | Blob] | None = None

    def build(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5 or not isinstance(state[2], _Kind):
            raise ValueError("the pickle has a NumPy array that is not one of bytes")
        _, shape, _, fortran, data = state
        if type(shape) is not tuple or any(type(length) is not int for length in shape):
            raise ValueError("the pickle has an array without a shape of whole numbers")
        rows = shape[0] if len(shape) == 2 and shape[1] == PIXELS else -1
        if not 0 <= rows <= MAX_ROWS:
            raise ValueError(
                f"the pickle has an array {shape[:4]!s:.80}, allowed are (N, {PIXELS})"
            )
        length = data.length if isinstance(data, Blob) else len(data) if type(data) is bytes else -1
        if length != rows * PIXELS or type(fortran) is not bool:
            raise ValueError(f"the pickle has an array ({rows}, {PIXELS}) of other length")
        self.state = shape, fortran, data

    def values(self) -> np.ndarray:
        if self.state is None:
            raise ValueError("the pickle has a NumPy array without content")
        shape, fortran, data = self.state
        data = data.read() if isinstance(data, Blob) else data
        return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    # How Python 3 writes byte strings in protocol 2.
    if type(text) is not str or _text(encoding) not in ("latin1", "latin-1"):
        raise TypeError
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    return b""


def _nothing(*arguments: Any) -> None:
    raise ValueError("the pickle makes a NumPy array in an unusual way; it was not run")


ALLOWED = {
    "numpy.dtype": Allowed(_Kind),
    "numpy.ndarray": Allowed(_nothing),
    "numpy.core.multiarray._reconstruct": Allowed(_Array),
    "numpy._core.multiarray._reconstruct": Allowed(_Array),
    "_codecs.encode": Allowed(_encoded),
    "__builtin__.bytes": Allowed(_no_bytes),
}


def _text(value: Any) -> str:
    # Of other things no more than the type: a pickle can nest tuples so that their text never ends.
    if type(value) is bytes:
        return value.decode("latin-1")
    return value if type(value) is str else f"<{type(value).__name__}>"


def _plain(value: Any) -> Any:
    # Only here, where the pickle has been read to its end, may the file be read elsewhere.
    if isinstance(value, _Array):
        return value.values()
    if isinstance(value, Blob):
        value = value.read()
    if type(value) is list:
        return [_plain(item) if type(item) is not list else None for item in value]
    return _text(value) if type(value) is bytes else value
