"""Configurations from bare state dicts with the names of this library's own networks."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from .configs import Config
from .recognise_edm import adm_config, song_config
from .recognised import Recognised, State, shape_of

_BLOCK = re.compile(r"(enc|dec)\.(\d+x\d+)\.(.+)")
_INPUT = re.compile(r"inputs\.(\d+x\d+)\.conv\.(.+)")
_OUTPUT = re.compile(r"outputs\.(\d+x\d+)\.(.+)")
_FAMILIES = ("adm", "song")


def looks_like_own(state: State) -> bool:
    """Whether the names are those of `SongUNet` or `ADMUNet`."""
    return "map_layer0.weight" in state and "input_conv.weight" in state


def recognise_own(state: State, overrides: dict[str, Any]) -> Recognised:
    """Network of this library; what it uses is removed from `overrides`.

    Besides the fields of a configuration, `family` ("song" or "adm") is understood.

    Raises:
        ValueError: for names and shapes that do not fit together, or if the family is not clear.
    """
    family = overrides.pop("family", None) or _family(state)
    if family not in _FAMILIES:
        raise ValueError(f"unknown family {family!r}; choose from {_FAMILIES}")
    renamed = _as_edm(state)
    config: Config
    if family == "song":
        config, notes = song_config(renamed, overrides)
    else:
        # Only groups of fewer than 128 channels depend on it.
        narrow = any(v.shape[0] < 128 for n, v in state.items() if n.endswith("norm1.weight"))
        unclear = narrow and "min_group" not in overrides
        config, notes = adm_config(renamed, overrides, min_group=1)
        notes += ["min_group=1: not stored; networks of EDM have 4"] if unclear else []
    return Recognised(config, "own", tuple(notes))


def _family(state: State) -> str:
    """Which network has such names; see the classes for what differs."""
    if "map_noise.freqs" in state or "map_label.bias" in state:
        return "song"
    if "map_label.weight" in state:
        return "adm"
    downs = {name for name in state if re.match(r"enc\.\d+x\d+\.down\.", name)}
    if downs:
        return "song" if any(".down.skip." in name for name in downs) else "adm"
    raise ValueError("the state fits both families; pass family='song' or family='adm'")


def _as_edm(state: State) -> dict[str, Tensor]:
    """The same tensors under NVlabs/edm's names."""
    sizes = [int(match[2].split("x")[0]) for name in state if (match := _BLOCK.match(name))]
    if not sizes:
        raise ValueError("the state has no blocks")
    finest = f"{max(sizes)}x{max(sizes)}"
    out = {}
    for name, value in state.items():
        new = name
        if name.startswith("input_conv."):
            new = f"enc.{finest}_{name.removeprefix('input_')}"
        elif match := _BLOCK.match(name):
            new = "{}.{}_{}".format(*match.groups())
        elif match := _INPUT.match(name):
            size, kind = match.groups()
            narrow = shape_of(state, f"inputs.{size}.conv.weight", 4)[-1] == 1
            new = f"enc.{size}_aux_{'skip' if narrow else 'residual'}.{kind}"
        elif match := _OUTPUT.match(name):
            new = "dec.{}_aux_{}".format(*match.groups())
        out[new.replace("_to.", "_s.")] = value
    return out
