"""Safetensors files that are whole or absent: checksum, atomic writing, clear refusals."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_HEADER = "ctm_fast"  # key of our JSON text in a safetensors file's metadata
# Start of the name of a file that is being written; safetensors adds random letters to ".tmp".
_TEMPORARY = ".tmp"


class DamagedCheckpoint(ValueError):
    """A checkpoint file that is truncated, altered or incomplete."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header to `path`, which is never seen half written.

    The data goes to a temporary file beside it, is flushed to the disk, and is renamed.

    Args:
        path: file to write; its folder must exist.
        tensors: any layout and device; stored contiguous.
        header: JSON types; "sha256" is added.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # Tied weights would share memory, which safetensors refuses.
    seen: set[int] = set()
    for name, tensor in plain.items():
        if tensor.numel() and tensor.untyped_storage().data_ptr() in seen:
            plain[name] = tensor.clone()
        seen.add(plain[name].untyped_storage().data_ptr())
    text = json.dumps({**header, "sha256": checksum(plain, header)}, allow_nan=False)
    with _replacing(path) as temporary:
        save_file(plain, temporary, metadata={_HEADER: text})


def read_header(path: Path) -> dict[str, Any]:
    """JSON header of a file written by `write_tensors`; tensors are not read.

    Raises:
        ValueError: for a missing file, a folder, or a safetensors file of someone else.
        DamagedCheckpoint: for a file that is not readable as safetensors.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; need a .safetensors file")
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise DamagedCheckpoint(f"{path} is damaged or no safetensors file: {error}") from None
    if _HEADER not in metadata:
        raise ValueError(
            f"{path} is a safetensors file, but not one of ctm_fast: it has no {_HEADER!r} "
            f"metadata (found {sorted(metadata) or 'none'})"
        )
    try:
        header = json.loads(metadata[_HEADER])
        if not isinstance(header, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpoint(f"{path} is damaged: unreadable header ({error})") from None
    return header


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors on the CPU, header) of a file written by `write_tensors`, checksum verified.

    Raises:
        ValueError: as `read_header`.
        DamagedCheckpoint: for a file that is not exactly what was written.
    """
    header = read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DamagedCheckpoint(f"{path} is damaged: {error}") from None
    stored = header.pop("sha256", None)
    if stored != checksum(tensors, header):
        raise DamagedCheckpoint(f"{path} is damaged: its checksum does not match its content")
    return tensors, header


def checksum(tensors: Mapping[str, Tensor], header: Mapping[str, Any] | None = None) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of the tensors, and over the header."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def library_version() -> str:
    """Version of ctm_fast."""
    return str(getattr(sys.modules["ctm_fast"], "__version__", "unknown"))


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with _replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed process left half written."""
    for leftover in folder.glob(f"{_TEMPORARY}*"):
        leftover.unlink(missing_ok=True)


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the floating-point tensors that hold NaN or infinity."""
    return [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Temporary file beside `path` that takes its place when the block ends without error."""
    temporary = path.with_name(f"{_TEMPORARY}-{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        # safetensors makes files that only their owner can read.
        temporary.chmod(mode)
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
