"""Visible tables of lazily imported names, and the JSON form of what they name."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from typing import Any


class Registry:
    """Table name -> "module:Attribute", imported when it is first asked for.

    Args:
        kind: what the names are, used in error messages ("objective", "solver", ...).
        table: name to "module:Attribute".
    """

    def __init__(self, kind: str, table: Mapping[str, str]) -> None:
        self.kind = kind
        self.table = dict(table)

    def __getitem__(self, name: str) -> Any:
        if name not in self.table:
            raise ValueError(f"unknown {self.kind} {name!r}; choose from {sorted(self.table)}")
        module, _, attribute = self.table[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __contains__(self, name: object) -> bool:
        return name in self.table

    def names(self) -> list[str]:
        """Registered names, sorted."""
        return sorted(self.table)

    def name_of(self, value: Any) -> str:
        """Name under which the class of `value` is registered.

        Raises:
            ValueError: if it is not registered.
        """
        wanted = f"{type(value).__module__}:{type(value).__qualname__}"
        for name, target in self.table.items():
            if target == wanted:
                return name
        raise ValueError(f"{wanted} is not a registered {self.kind}; choose from {self.names()}")

    def to_json(self, value: Any) -> dict[str, Any]:
        """JSON form of a registered dataclass: its name and its fields."""
        return {"name": self.name_of(value), **fields_to_json(value)}

    def from_json(self, data: Mapping[str, Any]) -> Any:
        """Object written by `to_json`.

        Raises:
            ValueError: for an unknown name or unknown fields.
        """
        fields = dict(data)
        name = fields.pop("name", None)
        cls = self[str(name)]
        return fields_from_json(cls, fields, f"{self.kind} {name!r}")


def choice(registry: str, default_factory: Any) -> Any:
    """Dataclass field that holds one of several registered dataclasses, a tuple of them, or None.

    Args:
        registry: "module:NAME" of the `Registry` that knows the alternatives.
        default_factory: makes the default.
    """
    return dataclasses.field(default_factory=default_factory, metadata={"registry": registry})


def fields_to_json(value: Any) -> dict[str, Any]:
    """Fields of a dataclass instance with tuples as lists, ready for `json.dumps`."""
    plain = {}
    for field in dataclasses.fields(value):
        if field.init:
            plain[field.name] = _plain(getattr(value, field.name), _registry_of(field))
    return plain


def fields_from_json(cls: Any, data: Mapping[str, Any], what: str) -> Any:
    """Instance of dataclass `cls` from `fields_to_json`'s output; lists become tuples.

    Raises:
        ValueError: for fields that `cls` does not have.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ValueError(f"unknown fields {unknown} for {what}; it has {sorted(fields)}")
    return cls(**{key: _restored(fields[key], value) for key, value in data.items()})


def _registry_of(field: dataclasses.Field[Any]) -> Registry | None:
    where = field.metadata.get("registry")
    if where is None:
        return None
    module, _, name = where.partition(":")
    registry: Registry = getattr(importlib.import_module(module), name)
    return registry


def _plain(value: Any, registry: Registry | None = None) -> Any:
    if registry is not None and value is not None:
        many = isinstance(value, tuple | list)
        return [registry.to_json(v) for v in value] if many else registry.to_json(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return fields_to_json(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _restored(field: dataclasses.Field[Any], value: Any) -> Any:
    registry = _registry_of(field)
    if registry is not None and value is not None:
        many = isinstance(value, tuple | list)
        return tuple(map(registry.from_json, value)) if many else registry.from_json(value)
    if isinstance(value, Mapping) and dataclasses.is_dataclass(field.default_factory):
        return fields_from_json(field.default_factory, value, field.name)
    return _frozen(value)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
