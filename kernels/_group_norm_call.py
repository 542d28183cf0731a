"""The group norm's short way: one call of csrc/ on the tensors where nothing records them.

A frozen network calls it some seventy times per forward pass; choosing a backend, checking every
argument and crossing torch's dispatcher take longer than a small image does. csrc/ reads the
tensors through DLPack, checks everything, and hands back what is unusual, wrong calls among it, to
the ordinary way.
"""

from typing import Any

import torch
from torch.autograd import forward_ad

from . import _native
from ._join_op import new_joined

Tensor = torch.Tensor
Factor = torch.Tensor | None


def _learned() -> bool:
    """Whether csrc/ can read tensors; older versions of torch do not say what they are."""
    table = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if _native.ABSENT is not None or table is None:
        return False
    return _native.module.learn_tensors(torch.Tensor, torch.nn.Parameter, table)


READY = _learned()
"""Whether there is a short way."""


def short_way(
    x: Tensor,
    num_groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    scale: Factor = None,
    shift: Factor = None,
    pre: Factor = None,
    act: bool = False,
    residual: Factor = None,
    residual_scale: float = 1.0,
    tail: Factor = None,
) -> Any:
    """What the native group norm returns, or None if the call has to take the ordinary way."""
    if (
        type(x) is not Tensor
        or not x.is_cpu
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.maybe_current_level() is not None
        or forward_ad._current_level >= 0
    ):
        return None
    if tail is None:
        joined = None if residual is None else torch.empty_like(x)
        y = torch.empty_like(x)
    elif type(tail) is Tensor and x.ndim == tail.ndim == 4:
        joined = new_joined(x, tail)
        y = torch.empty_like(joined)
    else:
        return None
    done = _native.module.group_norm_call(
        *(x, num_groups, weight, bias, eps, scale, shift, pre, act, residual, residual_scale),
        *(tail, y, joined, torch.get_num_threads(), torch.is_grad_enabled()),
    )
    if not done:
        return None
    return y if joined is None else (y, joined)
