"""The state dict inside what a training script saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Where several states are stored, the first of these is taken: averaged weights sample better.
_PREFERRED = (
    "ema",
    "model_ema",
    "ema_model",
    "params_ema",
    "ema_state_dict",
    "state_dict_ema",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "params",
)
_DEPTH = 6  # of nested dictionaries
_TWINS = 10  # names that two copies of a network share at least


def find_state(
    loaded: Any, which: str | None = None, strict: bool = True
) -> tuple[dict[str, Tensor], list[str]]:
    """(names and tensors, notes) of the network in a loaded object.

    Args:
        loaded: what `torch.load` returned.
        which: name of the dictionary, or first part of the names, to take where there are several.
        strict: False takes the first of several.

    Raises:
        ValueError: if there is no state dict, or `strict` and it is not clear which one is meant.
    """
    notes: list[str] = []
    state = _descend(loaded, which, notes, _DEPTH, strict)
    groups = _groups(state)
    twins = _twins(groups) if which is None else []
    if twins and not strict:
        return groups[twins[0]], notes
    if twins:
        raise ValueError(
            f"the file holds several networks, {twins}; choose one with which={twins[0]!r}"
        )
    return state, notes


def _descend(
    value: Any, which: str | None, notes: list[str], depth: int, strict: bool
) -> dict[str, Tensor]:
    if not isinstance(value, Mapping):
        raise ValueError(f"the file holds {_described(value)}, not a state dict")
    if _is_optimizer(value):
        raise ValueError("the file holds the state of an optimizer (opt*.pt), not of a network")
    if any(not isinstance(name, str) for name in value):
        raise ValueError("the file holds a dictionary whose keys are not names of tensors")
    tensors = {name: item for name, item in value.items() if isinstance(item, Tensor)}
    nested = {name: item for name, item in value.items() if _holds_tensors(item, depth)}
    if which is not None and which not in nested:
        groups = _groups(tensors)
        if which not in groups:
            choices = sorted(nested) or sorted(groups)
            raise ValueError(f"there is no {which!r} in the file; choose from {choices}")
        notes.append(f"weights taken from the names that begin with {which!r}")
        return groups[which]
    weights = [item for item in tensors.values() if item.ndim]
    if nested and depth and (which in nested or not weights):
        chosen = _chosen(nested, strict) if which is None else which
        notes.append(f"weights taken from {chosen!r}{_others(value, chosen)}")
        return _descend(nested[chosen], None, notes, depth - 1, strict)
    if not tensors:
        raise ValueError(f"the file holds no tensors, only {sorted(value)[:8]}")
    if left := sorted(set(value) - set(tensors)):
        notes.append(f"ignored what is no tensor: {', '.join(left[:8])}")
    return tensors


def _chosen(nested: Mapping[str, Any], strict: bool) -> str:
    if len(nested) == 1:
        return next(iter(nested))
    for name in _PREFERRED:
        if name in nested:
            return name
    names = sorted(nested)
    if not strict:
        return names[0]
    raise ValueError(f"the file holds several states, {names}; choose one with which={names[0]!r}")


def _others(value: Mapping[str, Any], chosen: str) -> str:
    others = sorted(set(value) - {chosen})
    return f"; besides it there are {', '.join(others[:8])} (choose with which=)" if others else ""


def _holds_tensors(value: Any, depth: int) -> bool:
    """Whether it is a dictionary with tensors somewhere in it that are not an optimizer's."""
    if not isinstance(value, Mapping) or depth == 0 or _is_optimizer(value):
        return False
    return any(
        isinstance(item, Tensor) or _holds_tensors(item, depth - 1) for item in value.values()
    )


def _is_optimizer(value: Mapping[Any, Any]) -> bool:
    return {"state", "param_groups"} <= set(value)


def _groups(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors by the first part of their names."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        first, _, rest = name.partition(".")
        groups.setdefault(first, {})[rest] = value
    return groups


def _twins(groups: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    """Groups that are copies of the largest one, with it; none if it is the only one."""
    largest = max(groups.values(), key=len, default={})
    same = [name for name, group in groups.items() if set(group) == set(largest)]
    return sorted(same) if len(same) > 1 and len(largest) >= _TWINS else []


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a single tensor of shape {tuple(value.shape)}"
    if isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
        return f"a list of {len(value)} tensors (LPIPS weights are stored so)"
    return f"a {type(value).__name__}"
