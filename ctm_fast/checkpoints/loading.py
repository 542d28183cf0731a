"""`load`: a model of any format that is known."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..denoiser import Denoiser
from ..registry import Registry
from . import native
from .building import built as built
from .model_card import agrees
from .overrides import checked_overrides
from .sniffing import WEIGHTS, path_of, sniff

# Each reader is called with (source, overrides), removes what it uses from the overrides, and gives
# a `Found`. The native one gives the model itself.
FORMATS = Registry(
    "format",
    {
        "native": "ctm_fast.checkpoints.native:load",
        "edm": "ctm_fast.checkpoints.edm:read",
        "ctm": "ctm_fast.checkpoints.ctm:read",
        "ctm-cifar10": "ctm_fast.checkpoints.ctm:read_cifar10",
        "openai": "ctm_fast.checkpoints.openai:read",
        "diffusers": "ctm_fast.checkpoints.diffusers:read",
        "state-dict": "ctm_fast.checkpoints.state_dict:read",
    },
)
_MOST_BYTES = 8 << 20  # of a config.json
_log = logging.getLogger("ctm_fast")


@dataclass(frozen=True)
class Opened:
    """A loaded model and where it comes from."""

    denoiser: Denoiser
    format: str  # name in `FORMATS`
    provenance: dict[str, Any] = field(default_factory=dict)  # what its file says, JSON values


def load(
    source: str | Path | nn.Module | Mapping[str, torch.Tensor],
    format: str = "auto",
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    **overrides: Any,
) -> Denoiser:
    """Model of a file, folder, live network or state dict, in eval mode.

    No code of a file is run, whatever the format, and nothing is downloaded. Every tensor of the
    source has its place in the network, or loading fails. What could not be read and was assumed is
    in `.notes` of the model and in the log ("ctm_fast", level INFO); each can be overridden.

    Args:
        source: a path, an `nn.Module` of a known code base, or a mapping of names to tensors.
        format: one of `FORMATS`; "auto" looks at the content.
        device: where the weights go.
        dtype: compute dtype of the network, see `Denoiser`; None computes in the weights' dtype.
        overrides: kind, sigma_min, sigma_max, sigma_data, attention_order, and fields of
            `SongConfig` or `ADMConfig`, instead of what is assumed; for our own format kind,
            precond, sigma_min and sigma_max instead of what is stored.

    Raises:
        ValueError: for a source that is not there or is no model, saying what it looks like; for
            names that are left over or missing; for an unknown format or override.
        DamagedCheckpoint: for a file that was truncated or altered, or weights that are not finite.
    """
    return opened(source, format, device, dtype, **overrides).denoiser


def opened(
    source: str | Path | nn.Module | Mapping[str, torch.Tensor],
    format: str = "auto",
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    **overrides: Any,
) -> Opened:
    """As `load`, with the format that was recognised and what the file says about its origin.

    Raises:
        ValueError: as `load`.
        DamagedCheckpoint: as `load`.
    """
    if format != "auto" and format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; choose from {['auto', *FORMATS.names()]}")
    overrides = checked_overrides(overrides)
    _check_target(device, dtype)
    name = sniff(source, overrides.get("which")) if format == "auto" else format
    if name == "native":
        result = _opened_native(source, device, dtype, overrides)
    else:
        if isinstance(source, str | os.PathLike):
            source = path_of(source)
        elif isinstance(source, Mapping) and name == "edm":
            raise ValueError(
                "format 'edm' is a pickle or a live network; use 'state-dict' for this"
            )
        left = dict(overrides)
        found = FORMATS[name](source, left)
        if left:
            raise ValueError(
                f"the format {name!r} has no use for the overrides {sorted(left)}: the source says "
                "what they should be, or its network does not have them"
            )
        result = Opened(built(found, device, dtype), name, dict(found.provenance))
    for note in result.denoiser.notes:
        _log.info("%s", note)
    return result


def _check_target(device: Any, dtype: Any) -> None:
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device is {device!r}: {str(error).splitlines()[0]}") from None
    if kind == "meta":
        raise ValueError("device is 'meta', which holds no weights")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype must be a floating-point torch.dtype or None, got {dtype!r}")


def _opened_native(
    source: Any, device: torch.device | str, dtype: torch.dtype | None, overrides: dict[str, Any]
) -> Opened:
    path = path_of(source)
    described = native.header(path / WEIGHTS if path.is_dir() else path)
    if path.is_dir():
        beside, path = path / "config.json", path / WEIGHTS
        differs = agrees(_content(beside), described) if beside.is_file() else []
        if differs:
            raise ValueError(
                f"{beside} and the header of {WEIGHTS} disagree about {differs}; the header "
                "counts: restore config.json, or delete it and override what should differ"
            )
    denoiser = native.load(path, device, dtype, **overrides)
    said = described.get("provenance")
    return Opened(denoiser, "native", said if isinstance(said, dict) else {})


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{path} is larger than {_MOST_BYTES} bytes")
    return content
