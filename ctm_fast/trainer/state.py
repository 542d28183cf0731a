"""What a training checkpoint holds, and whether it belongs to this run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.files import DamagedCheckpoint, checksum, not_finite, read_tensors
from ..data import ImageDataset
from ..denoiser import Denoiser
from ..losses import OBJECTIVES
from ..models import config_to_json
from ..registry import fields_to_json
from .config import TrainConfig
from .differences import differences

FORMAT, VERSION = "training", 1

# What is trained, and what the state of its optimizer is called: "optimizer/<weight>/<key>".
TRAINED = {"student": "optimizer", "companion": "companion_optimizer"}

# How a source is read, which its name and its shape need not tell.
HOW_READ = ("split", "size", "resize")

# Options that a resumed run may change without becoming another run.
FREE = frozenset(
    {"steps", "microbatch", "checkpoint_every", "keep", "log_every", "preview_every"}
    | {"progress_bar", "one_pass", "capture", "alarms", "tensorboard"}
)


def describe(
    config: TrainConfig,
    objective: Any,
    student: Denoiser,
    teacher: nn.Module | None,
    data: ImageDataset,
    weak: nn.Module | None = None,
) -> dict[str, Any]:
    """What makes a run this run, in JSON types."""
    described = {
        "train": {k: v for k, v in config.to_json().items() if k not in FREE},
        "objective": describe_objective(objective),
        "student": describe_denoiser(student),
        "teacher": None if teacher is None else checksum(teacher.state_dict()),
        "data": {
            "name": data.name,
            "images": len(data),
            "shape": list(data.shape),
            "classes": data.num_classes,
            **{k: v for k, v in data.details().items() if k in HOW_READ},
        },
    }
    if weak is not None:
        described["weak"] = checksum(weak.state_dict())
    plain: dict[str, Any] = json.loads(json.dumps(described, default=repr))
    return plain


def describe_objective(objective: Any) -> dict[str, Any]:
    """Name or class of an objective, and its fields."""
    if _class_name(objective) in OBJECTIVES.table.values():
        return OBJECTIVES.to_json(objective)
    fields = fields_to_json(objective) if dataclasses.is_dataclass(objective) else {}
    return {"class": _class_name(objective), **fields}


def describe_denoiser(denoiser: Denoiser) -> dict[str, Any]:
    """Architecture and preconditioning of a denoiser."""
    config = getattr(denoiser.net, "config", None)
    try:
        precond: Any = denoiser.precond.to_json()
        net: Any = {"class": _class_name(denoiser.net)}
        net = net if config is None else config_to_json(config)
    except (AttributeError, KeyError, TypeError, ValueError):
        # Someone else's network or preconditioning: compared by its printed form.
        precond, net = repr(denoiser.precond), _class_name(denoiser.net)
    return {
        "kind": denoiser.kind,
        "sigma_min": denoiser.sigma_min,
        "sigma_max": denoiser.sigma_max,
        "precond": precond,
        "net": net,
    }


def collect(
    modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """All tensors of a run by name: "student/...", "ema/0/...", "optimizer/<weight>/<key>".

    `optimizers` are by the names of the modules that they train, of `TRAINED`.
    """
    tensors = {
        f"{prefix}/{name}": tensor
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
    }
    for owner, optimizer in optimizers.items():
        for name, parameter in modules[owner].named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{TRAINED[owner]}/{name}/{key}"] = value
    return tensors


def load(path: Path, identity: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, header) of a training checkpoint of this run.

    Raises:
        DamagedCheckpoint: for a file that is not exactly what was written, or holds NaN.
        ValueError: for a checkpoint of another run, naming the fields that differ.
    """
    tensors, header = read_tensors(path)
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} is a {header.get('format')!r} file, not a training checkpoint")
    if header.get("version") != VERSION:
        raise ValueError(
            f"{path} has training format version {header.get('version')!r}; "
            f"this version of ctm_fast reads {VERSION}"
        )
    different = list(differences(header["identity"], identity, "checkpoint", "this run"))
    if different:
        raise ValueError(
            f"{path} belongs to a run with other settings; use another folder, or the same "
            "settings:\n  " + "\n  ".join(different)
        )
    if bad := not_finite(tensors):
        raise DamagedCheckpoint(f"{path} holds values that are not finite in {bad[:5]}")
    return tensors, header


@torch.no_grad()
def restore(
    path: Path,
    tensors: dict[str, Tensor],
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> None:
    """Put the tensors of `collect` back; every one has to find its place.

    Raises:
        DamagedCheckpoint: for missing or left-over tensors, or other shapes; nothing is changed.
    """
    expected = {
        f"{prefix}/{name}": tensor
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
    }
    states = {owner: _taken(tensors, f"{TRAINED[owner]}/") for owner in optimizers}
    named = {
        owner: {n: p for n, p in modules[owner].named_parameters() if p.requires_grad}
        for owner in optimizers
    }
    problems = [f"{name} is missing" for name in sorted(set(expected) - set(tensors))]
    problems += [f"{name} has no place" for name in sorted(set(tensors) - set(expected))]
    for owner, state in states.items():
        problems += [f"{name} has no place" for name in sorted(set(state) - set(named[owner]))]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if problems:
        raise DamagedCheckpoint(f"{path} does not fit: " + "; ".join(problems[:5]))
    for name, value in expected.items():
        value.copy_(tensors[name])
    for owner, optimizer in optimizers.items():
        weights = named[owner]
        order = {name: i for i, name in enumerate(weights)}
        index = {
            order[name]: {key: _laid_out(value, weights[name]) for key, value in entries.items()}
            for name, entries in states[owner].items()
        }
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": index, "param_groups": groups})


def _taken(tensors: dict[str, Tensor], prefix: str) -> dict[str, dict[str, Tensor]]:
    """weight -> key -> tensor of an optimizer's state, which is taken out of `tensors`."""
    state: dict[str, dict[str, Tensor]] = {}
    for name in [name for name in tensors if name.startswith(prefix)]:
        weight, _, key = name.removeprefix(prefix).rpartition("/")
        state.setdefault(weight, {})[key] = tensors.pop(name)
    return state


def _laid_out(value: Tensor, like: Tensor) -> Tensor:
    """Optimizer state in the memory layout of its weight, which may be channels-last."""
    if value.shape != like.shape:
        return value
    return torch.empty_like(like, dtype=value.dtype).copy_(value)


def _class_name(value: Any) -> str:
    return f"{type(value).__module__}:{type(value).__qualname__}"
