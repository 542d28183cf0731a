"""The join of csrc/, registered with torch as `ctm_fast::join`, with its gradient."""

import torch

from . import _native
from ._join_op import Image, Tensor, new_joined, register


def _forward(x: Tensor, tail: Image, residual: Image, residual_scale: float) -> Tensor:
    joined = new_joined(x, tail)
    if joined.numel() == 0:
        return joined
    last = not joined.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    # Named so that what .contiguous() may have made outlives the call.
    images = [
        None if t is None else t.contiguous(memory_format=layout) for t in (x, residual, tail)
    ]
    batch, channels, height, width = joined.shape
    _native.module.join(
        *(0 if t is None else t.data_ptr() for t in images),
        joined.data_ptr(),
        (batch, x.shape[1], channels, height * width),
        *(_native.DTYPES[x.dtype], last, residual_scale, torch.get_num_threads()),
    )
    return joined


native_join, registered = register("join", _forward, ["CPU"])
