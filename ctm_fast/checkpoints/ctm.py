"""Files of sony/ctm (ImageNet-64) and ctm-cifar10: trajectory models."""

from __future__ import annotations

from typing import Any

from ..models.recognise_adm import looks_like_adm
from .found import Found
from .openai import called, role_of_name
from .parametrisation import parametrisation, usual_embedding
from .sources import Source, described, open_state

# By the role that a file's name says.
_KINDS = {"cd": "'consistency'", "ct": "'consistency'", "edm": "'denoiser'"}


def read(source: Any, overrides: dict[str, Any]) -> Found:
    """Trajectory model of sony/ctm, or of ctm-cifar10 (told apart by the names).

    Raises:
        ValueError: if the file is something else, or its network has no destination embedding.
        DamagedCheckpoint: for a truncated or altered file.
    """
    state, name, notes = open_state(source, overrides)
    return found(described(state, name, notes, overrides), overrides)


def read_cifar10(source: Any, overrides: dict[str, Any]) -> Found:
    """As `read`; an ADM network of that repository orders its attention in the legacy way.

    Raises:
        ValueError: as `read`.
        DamagedCheckpoint: as `read`.
    """
    state, name, notes = open_state(source, overrides)
    if looks_like_adm(state):
        overrides.setdefault("attention_order", "legacy")
    return found(described(state, name, notes, overrides), overrides)


def found(source: Source, overrides: dict[str, Any]) -> Found:
    """What `read` returns, for a state dict that is read already.

    Raises:
        ValueError: as `read`.
    """
    config = source.recognised.config
    if not config.destination:
        kind = _KINDS.get(role_of_name(source.name) or "", "'consistency' or kind='denoiser'")
        raise ValueError(
            f"{called(source.name)} without destination embedding; load it with format='openai' "
            f"and kind={kind}"
        )
    kind = overrides.pop("kind", "trajectory")
    if kind != "trajectory":
        raise ValueError(
            f"kind={kind!r} was asked for; a network with a destination embedding is a "
            "'trajectory' model, which denoises too"
        )
    layout = source.recognised.layout
    own = usual_embedding(config, layout)
    precond, low, high = parametrisation("edm", own, overrides)
    return Found(
        format="ctm-cifar10" if own == "quarter_log" else "ctm",
        config=config,
        layout=layout,
        state=source.state,
        precond=precond,
        kind=kind,
        sigma_min=low,
        sigma_max=high,
        notes=list(source.notes),
        provenance=source.provenance,
    )
