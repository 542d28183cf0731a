"""Bare state dicts of any network that is known, in any of the key layouts."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..models.key_layouts import without_prefix
from ..models.recognise_adm import looks_like_adm
from ..models.recognise_diffusers import looks_like_diffusers
from . import ctm, diffusers, openai
from .found import Found
from .parametrisation import parametrisation, usual_embedding
from .sources import Source, described, open_state, provenance_of

_IDDPM_LEVELS = "u"  # table that EDM's iDDPM wrapper stores beside its network


def read(source: Any, overrides: dict[str, Any]) -> Found:
    """Model of a file, a mapping of tensors or a module.

    The network is recognised by its names and shapes; preconditioning and role, which those do not
    show, are the published ones of that family, or what `precond` ("edm", "cm", "ect", "vp", "ve",
    "iddpm", "linear", "scaled_linear", "cosine", or a `Preconditioning`) and `kind` say.

    Raises:
        ValueError: if no network is recognised, or its role has to be given.
        DamagedCheckpoint: for a truncated or altered file.
    """
    state, name, notes = open_state(source, overrides)
    state, default = _unwrapped(state)
    if looks_like_diffusers(state):
        model = diffusers.read(state, overrides)
        model.notes[:0] = notes
        model.provenance |= provenance_of(name)
        return model
    if looks_like_adm(state):
        notes += openai.said_by_name(name, overrides)
    opened = described(state, name, notes, overrides)
    config, layout = opened.recognised.config, opened.recognised.layout
    if config.destination:
        return ctm.found(opened, overrides)
    if layout.startswith("adm"):
        return openai.found(opened, overrides)
    return _other(opened, default, overrides)


def _other(opened: Source, default: str, overrides: dict[str, Any]) -> Found:
    """Model of a network whose names do not belong to a code base with roles of its own."""
    config, layout = opened.recognised.config, opened.recognised.layout
    kind = overrides.pop("kind", None)
    if kind == "trajectory":
        raise ValueError(
            "the network has no destination embedding, so it cannot be a trajectory model; load "
            "it with kind='denoiser' or kind='consistency'"
        )
    notes = list(opened.notes)
    if kind is None:
        kind = "consistency" if overrides.get("precond") in ("cm", "ect") else "denoiser"
        notes.append(f"kind={kind!r}: not stored")
    if "precond" not in overrides:
        default = "cm" if kind == "consistency" else default
        notes.append(f"precond={default!r}: not stored; usual for such names")
    own = usual_embedding(config, layout)
    if own == "log_250":
        notes.append("c_noise = 250 ln(sigma): not stored; that of ADM networks with min_group=1")
    precond, low, high = parametrisation(default, own, overrides)
    return Found(
        format="state-dict",
        config=config,
        layout=layout,
        state=opened.state,
        precond=precond,
        kind=kind,
        sigma_min=low,
        sigma_max=high,
        notes=notes,
        provenance=opened.provenance,
    )


def _unwrapped(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """(state, precond); the table of noise levels that EDM's iDDPM wrapper stores tells it."""
    rest = without_prefix({name: v for name, v in state.items() if name != _IDDPM_LEVELS})
    if _IDDPM_LEVELS in state and "map_layer0.weight" in rest:
        return rest, "iddpm"
    return state, "edm"
