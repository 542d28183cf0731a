"""Configurations from the constructor arguments of NVlabs/edm's networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..models.configs import ADMConfig, Config, SongConfig

# Parameters in their order, with their defaults; ... where there is none.
_SHARED = {
    "img_resolution": ...,
    "in_channels": ...,
    "out_channels": ...,
    "label_dim": 0,
    "augment_dim": 0,
}
_SONG = {
    **_SHARED,
    "model_channels": 128,
    "channel_mult": (1, 2, 2, 2),
    "channel_mult_emb": 4,
    "num_blocks": 4,
    "attn_resolutions": (16,),
    "dropout": 0.10,
    "label_dropout": 0.0,
    "embedding_type": "positional",
    "channel_mult_noise": 1,
    "encoder_type": "standard",
    "decoder_type": "standard",
    "resample_filter": (1, 1),
}
_ADM = {
    **_SHARED,
    "model_channels": 192,
    "channel_mult": (1, 2, 3, 4),
    "channel_mult_emb": 4,
    "num_blocks": 3,
    "attn_resolutions": (32, 16, 8),
    "dropout": 0.10,
    "label_dropout": 0.0,
}
_PARAMETERS: dict[str, dict[str, Any]] = {"SongUNet": _SONG, "DhariwalUNet": _ADM}
_RENAMED = {
    "in_channels": "img_channels",
    "embedding_type": "embedding",
    "encoder_type": "encoder",
    "decoder_type": "decoder",
}
_TUPLES = ("channel_mult", "attn_resolutions", "resample_filter")
_REALS = ("dropout", "label_dropout")
_TEXTS = ("embedding_type", "encoder_type", "decoder_type")
_HEAD_WIDTH = 64  # of DhariwalUNet; narrower blocks have no attention
NETWORKS = tuple(_PARAMETERS)


@dataclass(frozen=True)
class Arguments:
    """What a network was constructed with."""

    config: Config
    out_channels: int  # twice the image's where it also predicts a variance


def config_from_arguments(
    class_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Arguments:
    """Configuration of a SongUNet or DhariwalUNet that was called with these arguments.

    Arguments that are left out have the defaults of those classes.

    Raises:
        ValueError: for a class other than `NETWORKS`, or arguments that our configurations cannot
            express, naming them.
    """
    if class_name not in _PARAMETERS:
        raise ValueError(f"unknown network {class_name!r}; known are {NETWORKS}")
    parameters = _PARAMETERS[class_name]
    if len(args) > len(parameters):
        raise ValueError(f"a {class_name} with {len(args)} positional arguments is not known")
    given = dict(zip(parameters, args, strict=False)) | dict(kwargs)
    if unknown := sorted(set(given) - set(parameters)):
        said = ", ".join(f"{name}={_short(given[name])}" for name in unknown)
        raise ValueError(
            f"the {class_name} was made with arguments that no network here has: {said}"
        )
    values = {name: _typed(name, value) for name, value in {**parameters, **given}.items()}
    out_channels = values.pop("out_channels")
    values = {_RENAMED.get(name, name): value for name, value in values.items()}
    sizes = [values["img_resolution"] >> level for level in range(len(values["channel_mult"]))]
    attended = [size for size in values["attn_resolutions"] if size in sizes]
    if class_name == "SongUNet":
        values["attn_resolutions"] = tuple(attended)
        return Arguments(SongConfig(**values), out_channels)
    widths = dict(zip(sizes, _widths(values), strict=True))
    values["attn_resolutions"] = tuple(s for s in attended if widths[s] >= _HEAD_WIDTH)
    lowest = bool(sizes) and widths[sizes[-1]] >= _HEAD_WIDTH
    config = ADMConfig(
        **values, min_group=4, channels_per_head=_HEAD_WIDTH, bottleneck_attention=lowest
    )
    return Arguments(config, out_channels)


def _widths(values: Mapping[str, Any]) -> list[int]:
    return [values["model_channels"] * factor for factor in values["channel_mult"]]


def _typed(name: str, value: Any) -> Any:
    if value is ...:
        raise ValueError(f"the constructor argument {name} is not stored")
    if name in _TUPLES and isinstance(value, list | tuple) and all(map(_is_int, value)):
        return tuple(value)
    if name in _REALS and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if name in _TEXTS and isinstance(value, str):
        return value
    if name not in (*_TUPLES, *_REALS, *_TEXTS) and _is_int(value):
        return value
    raise ValueError(f"the constructor argument {name}={_short(value)} has the wrong type")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, int | float | str | list | tuple) else type(value)
    return str(text)[:60]
