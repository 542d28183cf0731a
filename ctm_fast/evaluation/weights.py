"""Files of weights: read once, checked by SHA-256 before anything looks inside."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import torch
from torch import Tensor, nn

_HEX = re.compile(r"[0-9a-fA-F]{8,64}")
_CHUNK = 1 << 22


def checked_bytes(path: Path, sha256: str) -> tuple[bytes, str]:
    """(content, SHA-256 in hexadecimal) of a file whose SHA-256 begins with `sha256`.

    The content that was checked is what is returned, so the file may change afterwards.

    Args:
        path: the file.
        sha256: all 64 digits, or at least the first 8 as published in names of weight files.

    Raises:
        ValueError: for a missing file, digits that are none, or another SHA-256.
    """
    if not _HEX.fullmatch(sha256):
        raise ValueError(f"sha256 is {sha256!r}; need 8 to 64 hexadecimal digits")
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is no file")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if not digest.startswith(sha256.lower()):
        raise ValueError(
            f"{path} has SHA-256 {digest}, not {sha256.lower()}: it is another file, or damaged; "
            "it was not read"
        )
    return content, digest


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, without holding the file in memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def module_sha256(module: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a module's state, in hexadecimal."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            flat = value.detach().cpu().contiguous()
            digest.update(f"{name} {flat.dtype} {tuple(flat.shape)}\n".encode())
            digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
