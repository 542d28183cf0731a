"""Whether bfloat16 can be multiplied on this processor's matrix tiles (AMX), and when to."""

import torch
from torch.autograd import forward_ad

from . import _native

Tensor = torch.Tensor

ABSENT = _native.ABSENT
"""Why there are no tiles here, or None if there are."""
if ABSENT is None and not _native.module.tiles:
    ABSENT = "this processor, or this build, has no matrix tiles for bfloat16 (AMX)"


def unwatched(x: Tensor) -> bool:
    """Whether nothing but autograd could notice that a call on x leaves torch's dispatcher out."""
    return (
        type(x) is Tensor
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.maybe_current_level() is None
        and forward_ad._current_level < 0
    )
