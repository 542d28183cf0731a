"""What all readers of state dicts begin with: the tensors, and what the file's name says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..models.foreign_states import output_rows
from ..models.key_layouts import without_prefix
from ..models.recognise import Recognised, recognise
from .torch_file import read_noted

# Names that training runs of openai/consistency_models and sony/ctm give to their files.
_RUN = re.compile(r"(?:(?P<model>model|target_model)|ema_(?P<ema>[\d.]+)_)(?P<step>\d{3,})\.pt")


@dataclass
class Source:
    """A state dict, its network, and where it comes from."""

    state: dict[str, Tensor]  # names without wrappers' prefixes
    recognised: Recognised
    name: str  # of the file, or empty
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)


def open_state(source: Any, overrides: dict[str, Any]) -> tuple[dict[str, Tensor], str, list[str]]:
    """(state without prefixes, name of the file or "", notes) of a file, a mapping or a module.

    `which` (see `torch_file.read_noted`) is removed from `overrides`.

    Raises:
        ValueError: for something else, or an unreadable file.
        DamagedCheckpoint: for a truncated or altered file.
    """
    if isinstance(source, nn.Module):
        return without_prefix(source.state_dict()), "", []
    if isinstance(source, Mapping):
        if not all(isinstance(key, str) and isinstance(v, Tensor) for key, v in source.items()):
            raise ValueError("a state dict maps names to tensors; this mapping holds other things")
        return without_prefix(source), "", []
    if not isinstance(source, str | os.PathLike):
        raise ValueError(f"need a path, a state dict or a module, got a {type(source).__name__}")
    state, notes = read_noted(Path(source), overrides.pop("which", None))
    return without_prefix(state), Path(source).name, notes


def described(
    state: dict[str, Tensor], name: str, notes: list[str], overrides: dict[str, Any]
) -> Source:
    """The state with its network; of an output layer that predicts a variance too, the image.

    What `models.recognise` uses is removed from `overrides`.

    Raises:
        ValueError: if it is not the state of a network known here.
    """
    found = recognise(state, overrides)
    notes = [*notes, *found.notes]
    if found.output_rows is not None:
        kept = found.config.img_channels
        cut = output_rows(state, 0, kept)
        state |= {name: value.clone() for name, value in cut.items() if value is not state[name]}
        notes.append(f"the network predicts {found.output_rows} channels; {kept} are the image's")
    return Source(state, found, name, notes, provenance_of(name))


def provenance_of(name: str) -> dict[str, Any]:
    """What a file's name says: file, and ema_decay and step where they are in it."""
    if not name:
        return {}
    said: dict[str, Any] = {"file": name}
    if match := _RUN.fullmatch(name):
        said["step"] = int(match["step"])
        if match["ema"]:
            said["ema_decay"] = float(match["ema"])
        elif match["model"] == "target_model":
            said["weights"] = "target"
    return said
