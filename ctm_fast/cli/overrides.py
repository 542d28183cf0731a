"""KEY=VALUE words of a command line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any


def parsed_overrides(words: Iterable[str]) -> dict[str, Any]:
    """Values by name from words such as `kind=consistency`, `img_resolution=64`, `dropout=0.1`.

    A value is JSON where it can be read as such (numbers, true, null, [1, 2]), numbers with commas
    between them, or else text.

    Raises:
        ValueError: for a word without a name and "=", or a name that comes twice.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"overrides are KEY=VALUE, got {word!r}")
        if name in found:
            raise ValueError(f"{name} is given twice")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    for attempt in (text, f"[{text}]") if text else ():
        try:
            value = json.loads(attempt)
        except (ValueError, RecursionError):
            continue
        return tuple(value) if isinstance(value, list) else value
    return text
