"""What a user may say about a model while it is loaded, checked before anything is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from ..denoiser import KINDS
from ..models.configs import ADMConfig, SongConfig
from ..precond import Preconditioning

_TEXTS = ("attention_order", "family", "which")
_LEVELS = ("sigma_data", "sigma_max", "sigma_min")
_MOST = 1 << 20  # of a size; every published one is far below
_MOST_ITEMS = 64  # of a list


def allowed_overrides() -> list[str]:
    """Names that `load` takes besides its own arguments, sorted."""
    return sorted({"kind", "precond", *_TEXTS, *_LEVELS, *_defaults()})


def checked_overrides(given: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides with lists as tuples.

    Raises:
        ValueError: for an unknown name, or a value of the wrong type or out of all range.
    """
    if unknown := sorted(set(given) - set(allowed_overrides())):
        raise ValueError(f"unknown overrides {unknown}; allowed are {allowed_overrides()}")
    return {name: _checked(name, value) for name, value in given.items()}


def _checked(name: str, value: Any) -> Any:
    if name == "kind":
        return _need(name, value, isinstance(value, str) and value in KINDS, f"one of {KINDS}")
    if name == "precond":
        good = isinstance(value, str | Preconditioning)
        return _need(name, value, good, "a name or a Preconditioning")
    if name in _TEXTS:
        return _need(name, value, isinstance(value, str), "a text")
    if name in _LEVELS:
        good = _is_number(value) and 0 < value < math.inf
        return float(_need(name, value, good, "a finite number > 0"))
    default = _defaults()[name]
    if isinstance(default, bool | str):
        return _need(name, value, type(value) is type(default), f"a {type(default).__name__}")
    if isinstance(default, int):
        return _need(name, value, _is_size(value), f"an integer from 0 to {_MOST}")
    if isinstance(default, float):
        return float(_need(name, value, _is_number(value), "a finite number"))
    good = isinstance(value, list | tuple) and len(value) <= _MOST_ITEMS
    good = good and all(_is_size(item) for item in value)
    return tuple(_need(name, value, good, f"a list of integers from 0 to {_MOST}"))


def _need(name: str, value: Any, good: bool, what: str) -> Any:
    if not good:
        raise ValueError(f"{name} must be {what}, got {repr(value)[:80]}")
    return value


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 1e300 and math.isfinite(value)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def _defaults() -> dict[str, Any]:
    """Default of every field of a configuration."""
    return {f.name: f.default for cls in (SongConfig, ADMConfig) for f in dataclasses.fields(cls)}
