"""Which format a model is in, from its content."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..models.key_layouts import without_prefix
from . import edm
from .nested_state import find_state
from .stored import StoredTensors
from .torch_archive import check_archive, file_kind

WEIGHTS = "model.safetensors"  # name of our weights in a folder
_OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9"  # of torch.save before PyTorch 1.6, a pickle itself
_FOLDERS = ("model_index.json", "diffusion_pytorch_model.safetensors", "unet", "scheduler")


def sniff(source: Any, which: str | None = None) -> str:
    """Name in `FORMATS` of a file, folder, module or mapping of tensors.

    Only names and shapes are read, never weights.

    Args:
        source: as in `load`.
        which: name of the state in a file that holds several.

    Raises:
        ValueError: for something that is no model, saying what it looks like.
        DamagedCheckpoint: for a file that is truncated or altered.
    """
    if isinstance(source, nn.Module):
        return format_of_module(source)
    if isinstance(source, Mapping):
        return format_of_names(source)
    if isinstance(getattr(source, "unet", None), nn.Module):
        return "diffusers"  # a live pipeline
    path = path_of(source)
    if path.is_dir():
        return _format_of_folder(path)
    kind = kind_of_file(path)
    if kind == "pickle":
        return "edm"
    if kind != "safetensors":
        names = _names(path, which) if kind == "zip" else {}
        return format_of_names(names) if names else "state-dict"
    stored = StoredTensors(path)
    return "native" if "ctm_fast" in stored.metadata else format_of_names(stored)


def path_of(source: Any) -> Path:
    """`source` as a path that exists.

    Raises:
        ValueError: if it is no path, or is not there.
    """
    if not isinstance(source, str | os.PathLike):
        raise ValueError(
            f"a {type(source).__name__} cannot be loaded; give a path, a module or a mapping of "
            "tensors"
        )
    path = Path(source)
    try:
        found = path.is_dir() or path.is_file()
    except (OSError, ValueError) as error:
        raise ValueError(f"{source!r} is no path: {error}") from None
    if not found:
        raise ValueError(f"{path} does not exist")
    return path


def kind_of_file(path: Path) -> str:
    """Kind of a file from its first bytes: "pickle", or as `file_kind` says.

    Raises:
        ValueError: for anything else, saying what it looks like.
        DamagedCheckpoint: for a file with nothing in it.
    """
    start = _start(path, 32)
    if len(start) < 9 or start[0] != 0x80 or start[1] > 5 or start.startswith(_OLD_TORCH):
        return file_kind(path)
    # A header of safetensors may have a length that looks like the start of a pickle.
    named = path.suffix.lower() == ".safetensors"
    return file_kind(path) if named or start[8:9] == b"{" else "pickle"


def _names(path: Path, which: str | None) -> Mapping[str, Tensor]:
    """State dict of a file of torch.save on the meta device; empty where it cannot be had so."""
    try:
        check_archive(path)
        loaded = torch.load(path, map_location="meta", weights_only=True)
        return find_state(loaded, which)[0]
    except Exception:  # the reader reads it in full, and says what is wrong
        return {}


def format_of_names(state: Mapping[str, Tensor] | Iterable[str]) -> str:
    """Format of a state dict, from its names; "state-dict" where nothing says more.

    Raises:
        ValueError: for an empty one, or names that are not text.
    """
    names = list(state)
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError("a state dict maps names to tensors; this one is empty or holds others")
    bare = set(without_prefix(dict.fromkeys(names)))  # type: ignore[arg-type]
    if any(name.startswith("time_embed_s.") for name in bare):
        return "ctm"
    if "time_embed.0.weight" in bare:
        return "openai"
    if any(re.match(r"map_layer0_s\.", name) for name in bare):
        return "ctm-cifar10"
    if "conv_in.weight" in bare and any(name.startswith("down_blocks.") for name in bare):
        return "diffusers"
    return "state-dict"


def format_of_module(module: nn.Module) -> str:
    """Format of a live network of another code base.

    Raises:
        ValueError: for a model of this library, which needs no loading.
    """
    if isinstance(module, Denoiser):
        raise ValueError("this is a Denoiser already; it needs no loading")
    home = type(module).__module__.split(".")[0]
    if home == "diffusers":
        return "diffusers"
    if edm.is_known(module):
        return "edm"
    return format_of_names(module.state_dict())


def _format_of_folder(path: Path) -> str:
    weights = path / WEIGHTS
    if weights.is_file() and "ctm_fast" in StoredTensors(weights).metadata:
        return "native"
    if any((path / name).exists() for name in _FOLDERS):
        return "diffusers"
    config = path / "config.json"
    if config.is_file() and b'"_class_name"' in _start(config, 1 << 20):
        return "diffusers"
    inside = ", ".join(sorted(item.name for item in path.iterdir())[:6]) or "nothing"
    raise ValueError(
        f"{path} is a folder without a model: need {WEIGHTS} of ctm_fast or a diffusers folder; "
        f"it holds {inside}"
    )


def _start(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)
