"""Folders that diffusers writes: their JSON files and their weights, nothing else is opened."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from .torch_file import read_state

CONFIG, PIPELINE = "config.json", "model_index.json"
SCHEDULER = "scheduler_config.json"
_WEIGHTS = "diffusion_pytorch_model"
_MOST_BYTES = 8 << 20  # of a JSON file; the index of a large model has a tenth of it
# A shard is a file in the same folder: its name has no separators.
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.(safetensors|bin)")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: for a missing or oversized file, or one that holds something else.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    with path.open("rb") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise ValueError(f"{path} is larger than {_MOST_BYTES} bytes")
    try:
        content = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}; need an object")
    return content


def read_weights(folder: Path) -> tuple[dict[str, Tensor], str]:
    """(state dict of a model's folder, name of the file it was read from).

    Taken is the first of diffusion_pytorch_model.safetensors, its shards, .bin, its shards, and
    otherwise the only variant (".fp16.safetensors").

    Raises:
        ValueError: for a folder without weights, and shards that do not hold what their index says.
        DamagedCheckpoint: for weights that are truncated or altered.
    """
    for ending in (".safetensors", ".bin"):
        single = folder / f"{_WEIGHTS}{ending}"
        if single.is_file():
            return read_state(single), single.name
        index = folder / f"{_WEIGHTS}{ending}.index.json"
        if index.is_file():
            return _shards(index), index.name
    variants = sorted(
        path
        for ending in ("safetensors", "bin")
        for path in folder.glob(f"{_WEIGHTS}.*.{ending}")
        if path.is_file()
    )
    if len(variants) == 1:
        return read_state(variants[0]), variants[0].name
    if variants:
        raise ValueError(
            f"{folder} holds several variants of the weights and none is the usual one: "
            f"{', '.join(path.name for path in variants)}; rename one to {_WEIGHTS}.safetensors"
        )
    present = ", ".join(sorted(item.name for item in folder.iterdir())[:6]) or "nothing"
    raise ValueError(f"{folder} has no {_WEIGHTS}.safetensors and no .bin; it holds {present}")


def _shards(index: Path) -> dict[str, Tensor]:
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise ValueError(f"{index} has no weight_map")
    files: dict[str, set[str]] = {}
    for name, file in table.items():
        if not isinstance(file, str) or not _SHARD.fullmatch(file):
            raise ValueError(
                f"{index} names {file!r}; shards are .safetensors or .bin files in its own folder"
            )
        files.setdefault(file, set()).add(name)
    state: dict[str, Tensor] = {}
    for file, names in sorted(files.items()):
        if not (index.parent / file).is_file():
            raise ValueError(f"{index.parent / file} is missing, which {index.name} names")
        shard = read_state(index.parent / file)
        if set(shard) != names:
            different = sorted(set(shard) ^ names)
            raise ValueError(
                f"{index.parent / file} does not hold what {index.name} says: "
                f"{', '.join(different[:4])}"
                + (f" and {len(different) - 4} more" if len(different) > 4 else "")
            )
        state.update(shard)
    return state
