"""Training presets: published hyper-parameters, each with its source."""

from .preset import Preset, Said, said
from .table import PRESETS, preset_named

__all__ = ["PRESETS", "Preset", "Said", "preset_named", "said"]
