"""Files of openai/consistency_models and openai/guided-diffusion."""

from __future__ import annotations

import re
from typing import Any

from .found import Found
from .parametrisation import parametrisation
from .sources import Source, described, open_state

# What a network was trained to be, which its keys do not show: kind, preconditioning, in words.
_ROLES = {
    "edm": ("denoiser", "edm", "an EDM denoiser"),
    "cd": ("consistency", "cm", "a distilled consistency model"),
    "ct": ("consistency", "cm", "a trained consistency model"),
    "guided-diffusion": ("denoiser", "linear", "a noise predictor of guided-diffusion"),
}
_ROLE_OF_KIND = {"denoiser": "edm", "consistency": "cd"}
# Published file names.
_CONSISTENCY = re.compile(r"(edm|cd|ct)_(?:imagenet|bedroom|cat)(64|256)(?:_ema|_l2|_lpips)?\.\w+")
_GUIDED = re.compile(r"(?:(\d+)x\1_diffusion(?:_uncond)?|lsun_[a-z]+(?:_nodropout)?)\.\w+")
_LSUN_SIZE = 256
_FOUR_HEADS = 128  # guided-diffusion's network of this size has 4 heads, all others 64 channels


def read(source: Any, overrides: dict[str, Any]) -> Found:
    """Model of an ADM network without destination embedding.

    What it was trained to be is taken from `kind` ("denoiser" or "consistency"), `precond`, a
    published file name, or an output that predicts a variance too (guided-diffusion).

    Raises:
        ValueError: if the file is something else, or does not say what it is.
        DamagedCheckpoint: for a truncated or altered file.
    """
    state, name, notes = open_state(source, overrides)
    notes += said_by_name(name, overrides)
    return found(described(state, name, notes, overrides), overrides)


def said_by_name(name: str, overrides: dict[str, Any]) -> list[str]:
    """Notes; fields that a published file name says are put into `overrides`, if not there."""
    said: dict[str, Any] = {}
    if match := _CONSISTENCY.fullmatch(name):
        said["img_resolution"] = int(match[2])
    elif match := _GUIDED.fullmatch(name):
        said["img_resolution"] = int(match[1] or _LSUN_SIZE)
        if said["img_resolution"] == _FOUR_HEADS and "channels_per_head" not in overrides:
            said["num_heads"] = 4
    notes = [f"{k}={v}: since the file is called {name}" for k, v in said.items()]
    notes = [note for field, note in zip(said, notes, strict=True) if field not in overrides]
    overrides.update({field: v for field, v in said.items() if field not in overrides})
    return notes


def role_of_name(name: str) -> str | None:
    """Role that a published file name says: edm, cd, ct, guided-diffusion, or None."""
    if match := _CONSISTENCY.fullmatch(name):
        return match[1]
    return "guided-diffusion" if _GUIDED.fullmatch(name) else None


def found(source: Source, overrides: dict[str, Any]) -> Found:
    """What `read` returns, for a state dict that is read already.

    Raises:
        ValueError: as `read`.
    """
    config, layout = source.recognised.config, source.recognised.layout
    if not layout.startswith("adm"):
        raise ValueError(
            f"no network of openai's code: its names are those of the layout {layout!r}; load it "
            "with format='auto'"
        )
    if config.destination:
        raise ValueError(
            "the network has a destination embedding: it is a trajectory model of sony/ctm; load "
            "it with format='ctm'"
        )
    kind = _checked_kind(source.name, overrides.pop("kind", None))
    notes, provenance = list(source.notes), dict(source.provenance)
    default = "edm"
    if "precond" in overrides:
        kind = kind or "denoiser"
    else:
        role, why = _role(source, kind)
        own_kind, default, words = _ROLES[role]
        if kind not in (None, own_kind):
            raise ValueError(f"kind={kind!r} was asked for, but {why}; pass precond too")
        kind, provenance["role"] = own_kind, role
        notes.append(f"{words}, since {why}")
        if role == "guided-diffusion":
            default = "cosine" if config.img_resolution == 64 else "linear"
            notes.append(f"precond={default!r}: not stored; the published one at this image size")
    precond, low, high = parametrisation(default, "log_250", overrides)
    return Found(
        format="openai",
        config=config,
        layout=layout,
        state=source.state,
        precond=precond,
        kind=kind,
        sigma_min=low,
        sigma_max=high,
        notes=notes,
        provenance=provenance,
    )


def called(name: str) -> str:
    """A file in words, by its name."""
    role = role_of_name(name)
    return f"a {role.upper()} checkpoint" if role in ("cd", "ct", "edm") else "a checkpoint"


def _checked_kind(name: str, kind: str | None) -> str | None:
    if kind == "trajectory":
        raise ValueError(
            f"{called(name)} without destination embedding cannot be a trajectory model; load it "
            "with kind='consistency' or kind='denoiser'"
        )
    if kind is not None and kind not in _ROLE_OF_KIND:
        raise ValueError(f"unknown kind {kind!r}; choose from {sorted(_ROLE_OF_KIND)}")
    return kind


def _role(source: Source, kind: str | None) -> tuple[str, str]:
    """(role, why)."""
    if source.recognised.output_rows is not None:
        return "guided-diffusion", "it predicts a variance too"
    named = role_of_name(source.name)
    if named and kind in (None, _ROLES[named][0]):
        return named, f"the file is called {source.name}"
    if kind is not None:
        return _ROLE_OF_KIND[kind], f"kind={kind!r} was asked for"
    raise ValueError(
        f"{source.name or 'the state dict'} holds openai's U-Net without destination embedding, "
        "and its keys do not show what it was trained to be: pass kind='denoiser' (an EDM "
        "teacher), kind='consistency' (CD or CT), or precond='linear' or 'cosine' "
        "(guided-diffusion)"
    )
