"""Models as files: safetensors with a JSON header that says what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from .. import models
from ..denoiser import Denoiser
from ..precond import Preconditioning
from .building import check_levels, check_plausible, common_dtype, empty_net, fill, some
from .files import (
    DamagedCheckpoint,
    checksum,
    library_version,
    not_finite,
    read_header,
    write_tensors,
)
from .stored import StoredTensors

FORMAT, VERSION = "model", 1
OVERRIDES = ("kind", "precond", "sigma_max", "sigma_min")
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin")


def save(denoiser: Denoiser, path: str | Path, **provenance: Any) -> Path:
    """Write a model so that `load` rebuilds it from the file alone; returns the path.

    Weights are stored in their own dtype. The file appears complete or not at all, and replaces
    one of the same name.

    Args:
        denoiser: model whose network has a `config` of `ctm_fast.models`.
        path: file ending in .safetensors, in an existing folder.
        provenance: where the model comes from, JSON types: ema_decay, step, data, classes, ...
            `denoiser.notes` is added.

    Raises:
        ValueError: for another file name, a network that cannot be rebuilt, weights that are not
            finite, or provenance that is not JSON.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"model files end in .safetensors, got {path.name!r}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder")
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} does not exist")
    # A group of models, as guidance makes one, has no network of its own.
    net = getattr(denoiser, "net", denoiser)
    config = getattr(net, "config", None)
    if config is None:
        raise ValueError(
            f"a {type(net).__name__} has no config to rebuild it from; only networks of "
            "ctm_fast.models can be saved"
        )
    weights = net.state_dict()
    if bad := not_finite(weights):
        raise ValueError(f"refusing to save weights that are not finite: {some(bad)}")
    if denoiser.notes:
        provenance = {"notes": list(denoiser.notes), **provenance}
    try:
        json.dumps(provenance, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"provenance must be JSON values: {error}") from None
    header = {
        "format": FORMAT,
        "version": VERSION,
        "library_version": library_version(),
        "kind": denoiser.kind,
        "precond": denoiser.precond.to_json(),
        "net": models.config_to_json(config),
        "sigma_min": denoiser.sigma_min,
        "sigma_max": denoiser.sigma_max,
        "sigma_data": denoiser.sigma_data,
        "provenance": provenance,
    }
    write_tensors(path, weights, header)
    return path


def header(path: str | Path) -> dict[str, Any]:
    """What a model file says about itself, without reading its weights.

    Keys: kind, precond, net, sigma_min, sigma_max, sigma_data, provenance, version,
    library_version.

    Raises:
        ValueError: for a file that is not a model of ctm_fast.
        DamagedCheckpoint: for an unreadable one.
    """
    path = Path(path)
    _refuse_pickle(path)
    return _checked(path, read_header(path))


def load(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    **overrides: Any,
) -> Denoiser:
    """Model of a file written by `save`, in eval mode.

    Args:
        path: the .safetensors file.
        device: where the weights go.
        dtype: compute dtype of the network, see `Denoiser`; None computes in the weights' dtype.
        overrides: kind, precond, sigma_min, sigma_max, to use instead of the stored ones.

    Raises:
        ValueError: for a missing file, a folder, a file of another program or of a newer version,
            or an unknown override.
        DamagedCheckpoint: for a file that was truncated or altered, whose weights do not fit its
            network, or are not finite.
    """
    path = Path(path)
    unknown = sorted(set(overrides) - set(OVERRIDES))
    if unknown:
        raise ValueError(f"unknown overrides {unknown}; allowed are {list(OVERRIDES)}")
    _refuse_pickle(path)
    described = _checked(path, read_header(path))
    weights = _verified(path)
    try:
        config = models.config_from_json(described["net"])
        check_plausible(config, weights.meta)
        net = empty_net(config)
        precond = Preconditioning.from_json(described["precond"])
        kind = described["kind"]
        low, high = float(described["sigma_min"]), float(described["sigma_max"])
        check_levels(low, high, precond.sigma_data)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} describes a model that cannot be built: {error}") from None
    stored = {"precond": precond, "kind": kind, "sigma_min": low, "sigma_max": high}
    denoiser = Denoiser(net, dtype=dtype, **{**stored, **overrides})
    _fill(path, net, weights, device)
    notes = described.get("provenance", {})
    denoiser.notes = _notes(notes.get("notes") if isinstance(notes, dict) else None)
    return denoiser.eval()


def _verified(path: Path) -> StoredTensors:
    """Tensors of a file whose checksum matches. They are read twice so as to be held once."""
    described, weights = read_header(path), StoredTensors(path)
    if described.pop("sha256", None) != checksum(weights, described):
        raise DamagedCheckpoint(f"{path} is damaged: its checksum does not match its content")
    return weights


def _fill(
    path: Path, net: torch.nn.Module, weights: StoredTensors, device: torch.device | str
) -> None:
    own = net.state_dict()
    missing, extra = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    if missing or extra:
        raise DamagedCheckpoint(
            f"{path} does not fit the network it describes: missing {some(missing)}, "
            f"unexpected {some(extra)}"
        )
    for name, value in own.items():
        shape = tuple(weights.meta[name].shape)
        if shape != value.shape:
            raise DamagedCheckpoint(
                f"{path}: {name} has shape {shape}, its network needs {tuple(value.shape)}"
            )
    dtype = common_dtype({name: value.dtype for name, value in weights.meta.items()})
    if bad := fill(net, weights.__getitem__, dtype, device):
        raise DamagedCheckpoint(f"{path} holds weights that are not finite: {some(bad)}")


def _notes(stored: Any) -> tuple[str, ...]:
    return tuple(str(note) for note in stored) if isinstance(stored, list) else ()


def _checked(path: Path, stored: dict[str, Any]) -> dict[str, Any]:
    if stored.get("format") == "training":
        raise ValueError(
            f"{path} is a training checkpoint; a Trainer with the same `out` continues from it, "
            "and save(trainer.ema, ...) writes its model"
        )
    if stored.get("format") != FORMAT:
        raise ValueError(f"{path} has unknown format {stored.get('format')!r}; need {FORMAT!r}")
    if stored.get("version") != VERSION:
        raise ValueError(
            f"{path} has model format version {stored.get('version')!r}; this version of ctm_fast "
            f"reads {VERSION}"
        )
    return {key: value for key, value in stored.items() if key not in ("format", "sha256")}


def _refuse_pickle(path: Path) -> None:
    if path.suffix.lower() in _PICKLES and path.is_file():
        raise ValueError(
            f"{path} looks like a pickle, which could run code when read; only .safetensors files "
            "of ctm_fast are read here"
        )
