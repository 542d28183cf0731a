"""Matrix tiles: when a call may leave torch's dispatcher out."""

import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from ctm_fast.kernels import _native
from ctm_fast.kernels._tiles import ABSENT, unwatched


def test_the_reason_agrees_with_the_build():
    assert (ABSENT is None) == (_native.ABSENT is None and _native.module.tiles)


def test_who_watches():
    x = torch.zeros(2)
    assert unwatched(x)
    assert not unwatched(torch.nn.Parameter(x)), "a subclass may have its own rules"
    with TorchDispatchMode():
        assert not unwatched(x)
    with forward_ad.dual_level():
        assert not unwatched(x)
    inside = []
    torch.func.vmap(lambda v: inside.append(unwatched(x)) or v)(torch.zeros(2))
    assert inside == [False]
