"""Weights of other people's networks from local files whose SHA-256 is checked first."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

WEIGHTS_DIR = "CTM_WEIGHTS_DIR"  # environment variable: a folder with weight files
_HASH = re.compile(r"[0-9a-f]{8,64}")
_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")
_WRAPPERS = ("model", "state_dict")  # keys under which published files keep their tensors


def check_sha256(sha256: str) -> None:
    """Accepts "" or 8 to 64 lower-case hexadecimal digits.

    Raises:
        ValueError: for anything else.
    """
    if sha256 and not _HASH.fullmatch(sha256):
        raise ValueError(
            f"sha256 must be the first 8 to 64 lower-case hexadecimal digits of a SHA-256, "
            f"got {sha256!r}"
        )


def weight_file(file: str, names: Sequence[str], what: str) -> Path:
    """Path of a weight file that is on this machine; nothing is ever downloaded.

    Args:
        file: path, or the name of a file in the folder `CTM_WEIGHTS_DIR`; "" looks there, then
            among the files that torch.hub has kept, for `names`.
        names: file names under which the weights are published.
        what: what they are and where to get them, for the error message.

    Raises:
        ValueError: if there is no such file.
    """
    folder = os.environ.get(WEIGHTS_DIR, "")
    if file:
        places = [Path(file)] + ([Path(folder) / file] if folder else [])
    else:
        cached = Path(torch.hub.get_dir()) / "checkpoints"
        folders = ([Path(folder)] if folder else []) + [cached]
        places = [place / name for place in folders for name in names]
    for place in places:
        if place.is_file():
            return place
    hint = f"{WEIGHTS_DIR}={folder}" if folder else f"the environment variable {WEIGHTS_DIR}"
    raise ValueError(
        f"no weights of {what}\nNothing is downloaded. Give file=PATH, or put the file into the "
        f"folder named by {hint}. Looked for: {', '.join(map(str, places))}"
    )


def read_weights(path: Path, sha256: str = "") -> dict[str, Tensor]:
    """Tensors of a `.safetensors` file or of a PyTorch file, on the CPU.

    The bytes are read once, hashed, and decoded only if the hash is right; PyTorch files are read
    with `weights_only=True`. Tensors under a key "model" or "state_dict" are taken from there.

    Args:
        path: the file.
        sha256: first 8 or more hexadecimal digits of its SHA-256; "": those in a name such as
            net-0aa007d2.pth, as torch.hub does.

    Raises:
        ValueError: without a hash to check against, for another hash, or for a file that is not
            a table of tensors.
    """
    check_sha256(sha256)
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    named = _IN_NAME.search(path.name)
    wanted = sha256 or (named[1] if named else "")
    if not wanted:
        raise ValueError(
            f"{path} needs sha256=..., its SHA-256 from a source that you trust; this file's "
            f"is {found}"
        )
    if not found.startswith(wanted):
        raise ValueError(f"{path} has SHA-256 {found}, not {wanted}: it is another file")
    try:
        if path.suffix == ".safetensors":
            return load(data)
        state: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as a table of tensors: {error}") from None
    for key in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} is not a table of tensors")
    return dict(state)
