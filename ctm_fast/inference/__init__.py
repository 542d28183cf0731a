"""Networks that are only run: frozen, tabulated, captured."""

from .buckets import bucket_sizes, buckets
from .freeze import fast_dtype, freeze
from .graphs import GraphError, GraphPool
from .packed import PackedConv2d
from .tables import Tabulated
from .teacher import TeacherSolve

accelerate = freeze

__all__ = [
    "GraphError",
    "GraphPool",
    "PackedConv2d",
    "Tabulated",
    "TeacherSolve",
    "accelerate",
    "bucket_sizes",
    "buckets",
    "fast_dtype",
    "freeze",
]
