"""Networks that are only run: frozen, tabulated, captured."""

from .freeze import fast_dtype, freeze
from .packed import PackedConv2d
from .tables import Tabulated

__all__ = ["PackedConv2d", "Tabulated", "fast_dtype", "freeze"]
