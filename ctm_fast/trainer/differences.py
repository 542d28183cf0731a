"""Where two descriptions in JSON types differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def differences(one: Any, two: Any, owner: str, other: str, name: str = "") -> Iterator[str]:
    """Lines "field: `owner` has ..., `other` has ..." for all leaves that differ."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        absent = "nothing"
        for key in sorted({*one, *two}):
            below = f"{name}.{key}" if name else str(key)
            yield from differences(one.get(key, absent), two.get(key, absent), owner, other, below)
    elif one != two:
        yield f"{name}: {owner} has {one}, {other} has {two}"
