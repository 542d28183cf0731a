"""Network pickles of NVlabs/edm, locuslab/ect and their kin, described without running their code.

Such a file carries the source text of its classes, which the original loader executes. Here every
object becomes a `Stub` with its class name and its attributes; the source text is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from ..pickle_machine import Allowed, DamagedPickle, hashable, read_pickle
from .files import DamagedCheckpoint
from .pickled_arrays import ARRAYS, number
from .pickled_tensors import TENSORS, Stored, Tensors

_MAX_DEPTH = 32  # modules inside modules
_MAX_MODULES = 20_000  # of one network; published ones have less than 1000
_MAX_CHILDREN = 64  # modules directly in a network
_MAX_ITEMS = 64  # of a list among the constructor's arguments
_CONTAINERS = ("ModuleDict", "ModuleList", "Sequential")


@dataclass(frozen=True)
class Pickled:
    """A pickled network: what it is, how it was made, and its tensors."""

    class_name: str  # without its module
    args: tuple[Any, ...]  # what its constructor was called with
    kwargs: dict[str, Any]
    attributes: dict[str, Any]  # numbers, strings and lists of them that it carries
    children: dict[str, Pickled]  # modules directly in it, without theirs and without tensors
    state: dict[str, Tensor] = field(default_factory=dict)  # of all modules in it, as a state dict
    roles: tuple[str, ...] = ()  # networks of the file


class Stub:
    """An object of a class that is not here: its class name and attributes."""

    def __init__(self, class_name: str) -> None:
        self.class_name = class_name
        self.attributes: dict[str, Any] = {}

    def build(self, state: Any) -> None:
        """Take the attributes.

        Raises:
            ValueError: unless they are a dictionary with names for keys.
        """
        if type(state) is not dict or not all(type(name) is str for name in state):
            raise ValueError(f"the state of a {self.class_name} is no dictionary of attributes")
        self.attributes = state


@dataclass(frozen=True)
class Method:
    """A method that an object refers to; it cannot be called."""

    name: str


def read_network(source: str | Path | BinaryIO, which: str = "ema") -> Pickled:
    """The network of a pickle file.

    Only the tensors of that network are read into memory.

    Args:
        source: path, or seekable binary file.
        which: entry of the file: "ema" in all published ones.

    Raises:
        ValueError: for a global that is not on the allow-list, naming it; for a file without such a
            network, naming those that it has.
        DamagedCheckpoint: for a file that is truncated, altered or no pickle.
    """
    with _opened(source) as file:
        content = read_pickle(file, allow_list())
        roles, network = _chosen(content, which)
        described = _described(network)
        tensors = Tensors(file.seek(0, 2))
        state = {name: tensors.read(stored, name) for name, stored in _stored(network)}
    return Pickled(**{**vars(described), "state": state, "roles": roles})


def allow_list() -> dict[str, Allowed]:
    """Everything that a network pickle may name, and what is made of it."""
    return {
        "torch_utils.persistence._reconstruct_persistent_obj": Allowed(_persistent),
        "dnnlib.util.EasyDict": Allowed(_dictionary),
        "dnnlib.EasyDict": Allowed(_dictionary),
        "collections.OrderedDict": Allowed(_dictionary),
        **{f"{module}.set": Allowed(_set) for module in ("builtins", "__builtin__")},
        # ECT's loss keeps one of its own methods as an attribute.
        **{f"{module}.getattr": Allowed(_method) for module in ("builtins", "__builtin__")},
        **{f"torch.nn.modules.container.{name}": _container(name) for name in _CONTAINERS},
        **ARRAYS,
        **TENSORS,
    }


@contextmanager
def _opened(source: str | Path | BinaryIO) -> Iterator[BinaryIO]:
    if not isinstance(source, str | Path):
        with _damage_of_checkpoint():
            yield source
        return
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is no file")
    with path.open("rb") as file:
        try:
            with _damage_of_checkpoint():
                yield file
        except ValueError as error:
            kind = DamagedCheckpoint if isinstance(error, DamagedCheckpoint) else ValueError
            raise kind(f"{path}: {error}") from None


@contextmanager
def _damage_of_checkpoint() -> Iterator[None]:
    try:
        yield
    except DamagedPickle as error:
        raise DamagedCheckpoint(str(error)) from None


def _persistent(meta: Any) -> Stub:
    if type(meta) is not dict or meta.get("type") != "class":
        raise ValueError("the pickle has a persistent object that is not of type 'class'")
    name = meta.get("class_name")
    if type(name) is not str or not name.isidentifier():
        raise ValueError("the pickle has a persistent object without a class name")
    stub = Stub(name)
    stub.build(meta.get("state"))
    return stub


def _container(name: str) -> Allowed:
    return Allowed(lambda: Stub(name))


def _dictionary() -> dict[str, Any]:
    return {}


def _set(values: Any) -> set[Any]:
    if type(values) is not list:
        raise TypeError
    return set(hashable(values))


def _method(target: Any, name: Any) -> Method:
    if not isinstance(target, Stub) or type(name) is not str or name.startswith("_"):
        # The text of tuples inside of tuples may never end.
        asked = repr(name[:80]) if type(name) is str else f"<{type(name).__name__}>"
        raise ValueError(
            f"the pickle asks for attribute {asked} of a {type(target).__name__} "
            "('builtins.getattr'); only methods of pickled objects may be named"
        )
    return Method(name)


def _chosen(content: Any, which: str) -> tuple[tuple[str, ...], Stub]:
    if isinstance(content, Stub) and "_modules" in content.attributes:
        return (), content
    if type(content) is not dict:
        raise ValueError(
            f"the pickle holds a {type(content).__name__}, not the dictionary with 'ema' that "
            "NVlabs/edm and locuslab/ect write"
        )
    networks = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Stub) and "_modules" in value.attributes
    }
    if which not in networks:
        entries = ", ".join(str(name)[:40] for name in list(content)[:8]) or "nothing"
        raise ValueError(
            f"the pickle has no network {which!r}; its networks are {sorted(networks)} "
            f"(entries: {entries})"
        )
    return tuple(sorted(networks)), networks[which]


def _described(module: Stub, with_children: bool = True) -> Pickled:
    attributes = module.attributes
    args, kwargs = attributes.get("_init_args"), attributes.get("_init_kwargs")
    children = list(_modules(module))[:_MAX_CHILDREN] if with_children else []
    return Pickled(
        class_name=module.class_name,
        args=tuple(_plain(value) for value in args) if type(args) is tuple else (),
        kwargs={name: _plain(value) for name, value in _items(kwargs or {})},
        attributes={n: _plain(value) for n, value in attributes.items() if n[:1] != "_"},
        children={name: _described(child, False) for name, child in children},
    )


def _plain(value: Any, depth: int = 0) -> Any:
    """Numbers, strings, short lists and dictionaries of them; for the rest its type in brackets."""
    value = number(value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple, dict) and len(value) <= _MAX_ITEMS and depth < 2:
        if type(value) is dict:
            return {str(name): _plain(item, depth + 1) for name, item in value.items()}
        return [_plain(item, depth + 1) for item in value]
    return f"<{type(value).__name__}>"


def _stored(network: Stub) -> Iterator[tuple[str, Stored]]:
    """Names and places of all tensors of a network, as in a state dict."""
    pending, visited = [("", network)], 0
    while pending:
        prefix, module = pending.pop()
        visited += 1
        if visited > _MAX_MODULES or prefix.count(".") > _MAX_DEPTH:
            raise ValueError("the network has too many modules inside modules; it was given up")
        attributes = module.attributes
        omitted = attributes.get("_non_persistent_buffers_set") or ()
        for kind in ("_parameters", "_buffers"):
            for name, value in _items(attributes.get(kind) or {}):
                if value is None or (kind == "_buffers" and name in omitted):
                    continue
                if not isinstance(value, Stored):
                    raise ValueError(f"{prefix}{name} is a {type(value).__name__}, not a tensor")
                yield prefix + name, value
        inside = [(f"{prefix}{name}.", child) for name, child in _modules(module)]
        pending += reversed(inside)


def _modules(module: Stub) -> Iterator[tuple[str, Stub]]:
    for name, child in _items(module.attributes.get("_modules") or {}):
        if child is None:
            continue
        if not isinstance(child, Stub):
            raise ValueError(f"module {name[:80]!r} is a {type(child).__name__}, not a module")
        yield name, child


def _items(mapping: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(mapping, Mapping) or not all(type(name) is str for name in mapping):
        raise DamagedCheckpoint("a module of the pickle has no dictionary of names")
    yield from mapping.items()
