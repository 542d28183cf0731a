"""Networks by name, and the JSON form of their configurations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..registry import fields_from_json, fields_to_json
from .configs import ADMConfig, Config, SongConfig
from .unet import UNet
from .unet_adm import ADMUNet
from .unet_edm import SongUNet

FAMILIES: dict[str, tuple[type[Config], type[UNet]]] = {
    "song": (SongConfig, SongUNet),
    "adm": (ADMConfig, ADMUNet),
}

_DDPMPP_CIFAR10 = SongConfig()
_NCSNPP_CIFAR10 = SongConfig(
    embedding="fourier",
    encoder="residual",
    resample_filter=(1, 3, 3, 1),
    channel_mult_noise=2,
)
_EDM_FFHQ64 = SongConfig(img_resolution=64, channel_mult=(1, 2, 2, 2), dropout=0.05)
_ADM_IMAGENET64 = ADMConfig()
_DIGITS = SongConfig(
    img_resolution=8,
    img_channels=1,
    label_dim=10,
    model_channels=32,
    channel_mult=(1, 2, 2),
    num_blocks=1,
    attn_resolutions=(),
    dropout=0.0,
    adaptive_scale=True,
)
_PHOTO_PATCHES = SongConfig(
    img_resolution=32,
    model_channels=32,
    channel_mult=(1, 2, 3),
    num_blocks=2,
    attn_resolutions=(8,),
    dropout=0.0,
    adaptive_scale=True,
)

# Published sizes: Karras et al. 2022, Appendix F; CTM, Table 4; sony/ctm's launch commands.
# Add label_dim=10 for class-conditional CIFAR-10, augment_dim=9 for EDM's published networks.
PRESETS: dict[str, Config] = {
    "ddpmpp-cifar10": _DDPMPP_CIFAR10,
    "ncsnpp-cifar10": _NCSNPP_CIFAR10,
    "edm-ffhq64": _EDM_FFHQ64,
    "adm-imagenet64": _ADM_IMAGENET64,
    "digits": _DIGITS,
    "photo-patches": _PHOTO_PATCHES,
    "ctm-ddpmpp-cifar10": dataclasses.replace(_DDPMPP_CIFAR10, destination=True),
    "ctm-ncsnpp-cifar10": dataclasses.replace(_NCSNPP_CIFAR10, destination=True),
    "ctm-edm-ffhq64": dataclasses.replace(_EDM_FFHQ64, destination=True),
    "ctm-adm-imagenet64": dataclasses.replace(_ADM_IMAGENET64, destination=True, dropout=0.0),
    "ctm-digits": dataclasses.replace(_DIGITS, destination=True),
    "ctm-photo-patches": dataclasses.replace(_PHOTO_PATCHES, destination=True),
}


def build(name: str, *, seed: int = 0, **overrides: Any) -> UNet:
    """Network with random weights.

    Args:
        name: one of `PRESETS`.
        seed: of the initial weights.
        overrides: fields of the preset's configuration that should differ.

    Raises:
        ValueError: for an unknown name or field, or values that do not fit together.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown network {name!r}; choose from {sorted(PRESETS)}")
    config = PRESETS[name]
    known = {field.name for field in dataclasses.fields(config)}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise ValueError(f"network {name!r} has no fields {unknown}; it has {sorted(known)}")
    return net_from_config(dataclasses.replace(config, **overrides), seed=seed)


def net_from_config(config: Config, *, seed: int = 0) -> UNet:
    """Network with random weights for a configuration.

    Raises:
        ValueError: if channels do not divide into groups or heads.
    """
    return FAMILIES[_family(config)][1](config, seed)  # type: ignore[call-arg, arg-type]


def config_to_json(config: Config) -> dict[str, Any]:
    """JSON form of a configuration, read back by `net_from_json`.

    Raises:
        ValueError: if it is not a configuration of a network.
    """
    return {"family": _family(config), **fields_to_json(config)}


def config_from_json(data: Mapping[str, Any]) -> Config:
    """Configuration written by `config_to_json`.

    Raises:
        ValueError: for an unknown family or unknown fields.
    """
    fields = dict(data)
    family = fields.pop("family", None)
    if family not in FAMILIES:
        raise ValueError(f"unknown network family {family!r}; choose from {sorted(FAMILIES)}")
    return fields_from_json(FAMILIES[family][0], fields, f"network family {family!r}")


def net_from_json(data: Mapping[str, Any]) -> UNet:
    """Network with random weights from `config_to_json`'s output.

    Raises:
        ValueError: for an unknown family, unknown fields, or values that do not fit together.
    """
    return net_from_config(config_from_json(data))


def _family(config: Config) -> str:
    for name, (cls, _) in FAMILIES.items():
        if type(config) is cls:
            return name
    raise ValueError(f"not a network configuration: {config!r}")
