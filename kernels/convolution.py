"""Convolutions of bfloat16 images on a CPU's matrix tiles, for networks that are only run.

Not an `Op`: what the tiles read are weights in an order of their own, and which processor, dtype
and size they take has no equivalent elsewhere. Where they do not fit there is PyTorch's.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from . import _native
from ._tiles import ABSENT, unwatched

Tensor = torch.Tensor

PANEL = 32
"""Channels of a block and outputs of a panel; both must divide by it."""
SIDES = (1, 3)


def reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution with stride 1 that keeps the size, (batch, outputs, H, W).

    Args:
        x: (batch, C, H, W).
        weight: (outputs, C, 1, 1), or (outputs, C, 3, 3) with a border of zeros around x.
        bias: (outputs,), or None.
    """
    return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)


def fits(shape: Sequence[int], weight: Sequence[int]) -> bool:
    """Whether images (batch, C, H, W) and weights (outputs, C, k, k) of these sizes can be tiled.

    C and outputs divide by 32; for k = 3 the width divides by 16 or is 8 or 4, for k = 1 the number
    of all pixels divides by 32 and is at most 2048: beyond, PyTorch is as fast.
    """
    if ABSENT is not None or len(shape) != 4 or len(weight) != 4 or min(*shape, *weight) < 1:
        return False
    (batch, channels, height, width), (outputs, inputs, side, other) = shape, weight
    if inputs != channels or side != other or side not in SIDES:
        return False
    return bool(_native.module.convolution_fits(batch, height, width, channels, outputs, side))


def panels(weight: Tensor) -> Tensor:
    """A weight (outputs, C, k, k) in the order in which tiles read it, one-dimensional.

    Panels of 32 outputs, in them blocks of 32 channels, in them the taps, and for each two tiles of
    16 outputs whose rows hold pairs of channels.

    Raises:
        ValueError: if outputs or C do not divide by 32.
    """
    outputs, channels = weight.shape[:2]
    if outputs % PANEL or channels % PANEL:
        raise ValueError(
            f"a weight {tuple(weight.shape)} has no panels: outputs and channels must divide by "
            f"{PANEL}"
        )
    tiles = weight.reshape(outputs // PANEL, 2, 16, channels // PANEL, 16, 2, -1)
    return tiles.permute(0, 3, 6, 1, 4, 2, 5).reshape(-1)


def convolution(x: Tensor, packed: Tensor, bias: Tensor | None, outputs: int, side: int) -> Tensor:
    """`reference` of what `fits`, channels-last; sums in float32. It has no gradient.

    A frozen network calls it some hundred times: where nothing watches torch's dispatcher it is
    left out.

    Args:
        x: (batch, C, H, W) bfloat16; channels-last, or it is copied.
        packed: `panels` of the bfloat16 weight.
        bias: (outputs,) bfloat16, or None.
        outputs: of the weight.
        side: k of the weight, 1 or 3.

    Raises:
        ValueError: for what does not fit.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    if unwatched(x):
        return _run(x, packed, bias, outputs, side)
    return torch.ops.ctm_fast.convolution(x, packed, bias, outputs, side)


def _run(x: Tensor, packed: Tensor, bias: Tensor | None, outputs: int, side: int) -> Tensor:
    batch, channels, height, width = x.shape
    given = (x, packed) if bias is None else (x, packed, bias)
    if any(t.dtype != torch.bfloat16 or not t.is_cpu for t in given):
        raise ValueError(
            f"tiles hold bfloat16 on the CPU, got {[(t.dtype, t.device) for t in given]}"
        )
    if packed.numel() != outputs * channels * side**2 or (
        bias is not None and len(bias) != outputs
    ):
        raise ValueError(
            f"{packed.numel()} weights do not convolve {channels} channels to {outputs}, "
            f"{side}x{side}; nor do biases of another number"
        )
    y = torch.empty(
        (batch, outputs, height, width), dtype=x.dtype, memory_format=torch.channels_last
    )
    _native.module.convolution(
        *(x.data_ptr(), packed.data_ptr(), 0 if bias is None else bias.data_ptr(), y.data_ptr()),
        *(batch, height, width, channels, outputs, side, torch.get_num_threads()),
    )
    return y


def _fake(x: Tensor, packed: Tensor, bias: Tensor | None, outputs: int, side: int) -> Tensor:
    batch, _, height, width = x.shape
    empty = x.new_empty((batch, outputs, height, width))
    return empty.contiguous(memory_format=torch.channels_last)


LIBRARY = torch.library.Library("ctm_fast", "FRAGMENT")
LIBRARY.define(
    "convolution(Tensor x, Tensor packed, Tensor? bias, int outputs, int side) -> Tensor"
)
LIBRARY.impl("convolution", _run, "CPU")
torch.library.register_fake("ctm_fast::convolution", _fake, lib=LIBRARY)
