"""`Recognised`, and what all recognisers share: careful look-ups, overrides of assumptions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from .configs import Config

State = Mapping[str, Tensor]
C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Recognised:
    """The network that a published state dict belongs to."""

    config: Config
    layout: str  # name in `key_layouts.LAYOUTS`
    notes: tuple[str, ...] = ()  # what was assumed rather than read, one sentence each
    # Rows of the output layer where it also predicts a variance; the first img_channels count.
    output_rows: int | None = None


@dataclass(frozen=True)
class Assumed:
    """A field that the names and shapes do not show."""

    value: Any  # the published default
    note: str = ""  # said where the default is taken; empty: not worth a word


def settled_config(
    cls: type[C],
    seen: Mapping[str, Any],
    assumed: Mapping[str, Assumed],
    overrides: dict[str, Any],
) -> tuple[C, list[str]]:
    """(configuration, notes); fields of `cls` are removed from `overrides`.

    Args:
        cls: of the configuration.
        seen: fields that the state shows.
        assumed: all other fields that differ from the class's defaults or are worth a note.
        overrides: given by the user.

    Raises:
        ValueError: where an override contradicts the state, or the fields do not fit together.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    given = {name: _frozen(overrides.pop(name)) for name in names if name in overrides}
    for name in given:
        if name in seen and given[name] != seen[name]:
            raise ValueError(f"{name}={given[name]} was asked for; the state has {seen[name]}")
    defaults = {name: item.value for name, item in assumed.items()}
    notes = [item.note for name, item in assumed.items() if item.note and name not in given]
    return cls(**{**defaults, **given, **seen}), notes


def shape_of(state: State, name: str, ndim: int) -> tuple[int, ...]:
    """Shape of a tensor.

    Raises:
        ValueError: if it is missing, empty, or has another number of dimensions.
    """
    if name not in state:
        raise ValueError(f"the state has no {name}")
    shape = tuple(state[name].shape)
    if len(shape) != ndim or 0 in shape:
        raise ValueError(f"{name} has shape {shape}; expected {ndim} dimensions, none empty")
    return shape


def multiple(value: int, unit: int, what: str) -> int:
    """value / unit.

    Raises:
        ValueError: if that is no integer.
    """
    if value % unit:
        raise ValueError(
            f"{what} is {value / unit:g}, from {value} channels of {unit}; only whole multiples "
            "are supported"
        )
    return value // unit


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
