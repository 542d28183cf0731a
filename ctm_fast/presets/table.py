"""The table of presets."""

from __future__ import annotations

from . import cifar10, ctm, digits, edm, imagenet64
from .preset import Preset

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for module in (edm, ctm, cifar10, imagenet64, digits)
    for preset in module.PRESETS
}


def preset_named(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose from {sorted(PRESETS)}")
    return PRESETS[name]
