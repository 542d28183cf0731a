"""`recognise`: the network that a published state dict belongs to, from its names and shapes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .foreign_states import describe, examples
from .recognised import Recognised as Recognised

# Tried in this order: whether the names fit, and who reads the configuration then, each as
# "module:function" called with (state, overrides).
RECOGNISERS = (
    ("recognise_adm:looks_like_adm", "recognise_adm:recognise_adm"),
    ("recognise_edm:looks_like_edm", "recognise_edm:recognise_edm"),
    ("recognise_own:looks_like_own", "recognise_own:recognise_own"),
    ("recognise_diffusers:looks_like_diffusers", "recognise_diffusers:recognise_diffusers"),
)


def recognise(state: Mapping[str, Tensor], overrides: dict[str, Any] | None = None) -> Recognised:
    """Configuration and key layout of a network, from the names and shapes of its tensors.

    Tensors may lie on the meta device; where there are values, those of resampling filters and
    Fourier frequencies are looked at too. Whether the state is complete is not checked here, but
    by `key_layouts.from_published`.

    Args:
        state: published names and tensors, without wrappers' prefixes (see
            `key_layouts.without_prefix`).
        overrides: fields of the configuration that the state does not show, and what else the
            recognisers name (`attention_order`, `num_heads`, `family`). What is used is removed.

    Raises:
        ValueError: for a state of something else, saying what it looks like; for names and shapes
            that do not fit together; for an override that contradicts the state.
    """
    overrides = {} if overrides is None else overrides
    if not all(isinstance(name, str) and isinstance(v, Tensor) for name, v in state.items()):
        raise ValueError("a state dict maps names to tensors; this one holds other things")
    for fits, read in RECOGNISERS:
        if _function(fits)(state):
            found = _function(read)(state, overrides)
            assert isinstance(found, Recognised)
            return found
    raise ValueError(
        f"not a network that is known here: it looks like {describe(list(state))} "
        f"({examples(list(state))})"
    )


def _function(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(f".{module}", __package__), attribute)
