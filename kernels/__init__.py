"""Fused operations: each is one readable PyTorch definition with faster backends behind it."""

if __name__ != "ctm_fast.kernels":
    raise ImportError("import this package as `ctm_fast.kernels`: two copies of an op would clash")

from .add_noise import add_noise
from .affine import affine
from .attention import attention
from .group_norm import group_norm
from .heun import heun_correct, heun_predict
from .jump import jump
from .op import BACKENDS, OPS, BackendError, Op, use_backend
from .time_embedding import time_embedding

__all__ = [
    "BACKENDS",
    "OPS",
    "BackendError",
    "Op",
    "add_noise",
    "affine",
    "attention",
    "group_norm",
    "heun_correct",
    "heun_predict",
    "jump",
    "time_embedding",
    "use_backend",
]
