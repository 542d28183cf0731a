"""Fused operations: each is one readable PyTorch definition with faster backends behind it."""

if __name__ != "ctm_fast.kernels":
    raise ImportError("import this package as `ctm_fast.kernels`: two copies of an op would clash")

from .add_noise import add_noise
from .affine import affine
from .attention import attention
from .group_norm import group_norm
from .heun import heun_correct, heun_predict
from .join import join
from .jump import jump
from .normal import normal
from .op import BACKENDS, OPS, BackendError, Op, use_backend
from .optimizer_step import optimizer_step
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
    "join",
    "jump",
    "normal",
    "optimizer_step",
    "time_embedding",
    "use_backend",
]
