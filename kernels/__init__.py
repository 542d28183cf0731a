"""Fused operations: each is one readable PyTorch definition with faster backends behind it."""

if __name__ != "ctm_fast.kernels":
    raise ImportError("import this package as `ctm_fast.kernels`: two copies of an op would clash")

from .group_norm import group_norm
from .heun import heun_correct, heun_predict
from .jump import jump
from .op import BACKENDS, OPS, BackendError, Op, use_backend

__all__ = [
    "BACKENDS",
    "OPS",
    "BackendError",
    "Op",
    "group_norm",
    "heun_correct",
    "heun_predict",
    "jump",
    "use_backend",
]
