"""Tensors of files that torch.save wrote, without running anything that they contain."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import DamagedCheckpoint, not_finite
from .nested_state import find_state
from .stored import StoredTensors
from .torch_archive import check_archive, file_kind

# What a file is that asks for such classes; the first match counts.
_ORIGINS = (
    (
        r"torch_utils\.persistence|dnnlib|training\.",
        "it holds pickled objects of NVlabs/edm's code, as ECT's and TCM's training-state-*.pt do; "
        "load the network-snapshot-*.pkl of that run instead, with format='edm'",
    ),
    (
        r"(__builtin__|builtins|os|posix|nt|subprocess|sys|shutil|socket|runpy)\.",
        "reading it would run code; it is not a checkpoint",
    ),
    (
        r"torch\.nn\.modules|.*\.(UNet|Model|Net)\w*$",
        "a whole module was saved; load it where it comes from and save its state_dict()",
    ),
    (
        r"numpy|argparse|omegaconf|pytorch_lightning|lightning|collections\.defaultdict|pathlib",
        "a training script stored its settings beside the weights; load it where it comes from "
        "and save the state_dict alone",
    ),
)


def read_state(path: str | Path, which: str | None = None) -> dict[str, Tensor]:
    """Names and tensors of a network's state dict, on the CPU, in their own dtype.

    See `read_noted`, which also says where in the file they were found.
    """
    return read_noted(path, which)[0]


def read_noted(path: str | Path, which: str | None = None) -> tuple[dict[str, Tensor], list[str]]:
    """(state, notes) of a .pt, .pth, .bin, .ckpt or .safetensors file.

    Nothing in the file is executed: only tensors and plain values are read (`weights_only`). One
    copy of the tensors is held in memory.

    Args:
        path: the file.
        which: name of the state to take where the file holds several, for example "ema".

    Raises:
        ValueError: for a missing file, a folder, a file of another kind, an archive or objects
            that torch.save does not write for tensors, no or several states, or weights that are
            not finite.
        DamagedCheckpoint: for a truncated or altered file.
    """
    path = Path(path)
    loaded = _content(path, mapped=False)
    state, notes = _found(path, loaded, which)
    del loaded
    state = {name: value.detach() for name, value in state.items()}
    _check_memory(path, state)
    if bad := not_finite({n: v for n, v in state.items() if v.element_size() > 1}):
        shown = ", ".join(bad[:4]) + (f" and {len(bad) - 4} more" if len(bad) > 4 else "")
        raise DamagedCheckpoint(f"{path} holds weights that are not finite: {shown}")
    return state, notes


def read_names(path: str | Path) -> list[str]:
    """Names in the state dict that `read_state` gives, without reading the weights where possible.

    Of several states the first is looked at.

    Raises:
        ValueError: as `read_noted`.
        DamagedCheckpoint: as `read_noted`.
    """
    path = Path(path)
    return list(_found(path, _content(path, mapped=True), None, strict=False)[0])


def _content(path: Path, mapped: bool) -> Any:
    """What the file holds; `mapped`: weights stay on the disk where the format allows it."""
    kind = file_kind(path)
    if kind == "safetensors":
        stored = StoredTensors(path)
        return dict(stored.meta if mapped else stored)
    if kind == "zip":
        check_archive(path)
    return _load(path, kind, mapped and kind == "zip")


def _found(
    path: Path, content: Any, which: str | None, strict: bool = True
) -> tuple[dict[str, Tensor], list[str]]:
    try:
        return find_state(content, which, strict)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _load(path: Path, kind: str, mapped: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch.load raises whatever a damaged pickle leads to
        if wanted := _refused_globals(path, kind, str(error)):
            raise ValueError(_refusal(path, wanted)) from None
        raise DamagedCheckpoint(f"{path} is truncated or damaged: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """The reason in a message of torch.load, without its advice to read the file unsafely."""
    _, _, inner = str(error).rpartition("WeightsUnpickler error:")
    lines = inner.strip().splitlines() or [""]
    advice = not lines[0] or "weights_only" in lines[0]
    return type(error).__name__ if advice else lines[0][:200]


def _refused_globals(path: Path, kind: str, message: str) -> list[str]:
    """Classes and functions that the file asks for and that are not read."""
    found = re.findall(r"GLOBAL ([\w.]*\w)", message)
    if kind == "zip":
        try:
            found += torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        except Exception:  # it is the same damaged pickle
            return sorted(set(found))
    return sorted(set(found))


def _refusal(path: Path, wanted: list[str]) -> str:
    guess = next(
        (what for sign, what in _ORIGINS if any(re.match(sign, name) for name in wanted)),
        "it was not written for exchange; save the state_dict() of the network alone",
    )
    shown = ", ".join(wanted[:6]) + (f" and {len(wanted) - 6} more" if len(wanted) > 6 else "")
    return f"{path} is refused, it needs more than tensors ({shown}): {guess}"


def _check_memory(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that would take more memory, once they are used, than the file has bytes."""
    total, size = 0, path.stat().st_size
    for name, value in state.items():
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise ValueError(f"{path}: {name} is no ordinary tensor (sparse, quantised or empty)")
        total += value.numel() * value.element_size()
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(
                f"{path} is refused: {name} repeats {value.untyped_storage().nbytes()} bytes to "
                f"shape {tuple(value.shape)}"
            )
    if total > 2 * size:
        raise ValueError(f"{path} is refused: {size} bytes hold tensors of {total}")
