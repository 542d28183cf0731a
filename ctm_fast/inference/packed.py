"""Convolutions whose weights lie as the processor reads them; all of oneDNN's private ops."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.convolution import convolution, fits, panels

MOST = 3  # packed weights per convolution, one for each shape of its input

_OPS = torch.ops.mkldnn
ABSENT: str | None = None
"""Why weights cannot be packed here, or None if they can."""
if not torch.backends.mkldnn.is_available():
    ABSENT = "this PyTorch was built without oneDNN"
elif not all(hasattr(_OPS, n) for n in ("_reorder_convolution_weight", "_convolution_pointwise")):
    ABSENT = f"PyTorch {torch.__version__} has no packed convolutions"


class Tiles:
    """Weights for the convolution on matrix tiles; right for images of every size that fits."""

    def __init__(self, conv: nn.Conv2d) -> None:
        self.weight = panels(conv.weight.detach())
        self.outputs, self.side = conv.out_channels, conv.kernel_size[0]

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution of x plus the bias."""
        return convolution(x, self.weight, bias, self.outputs, self.side)


class OneDNN:
    """Weights in the order that oneDNN chooses for images of one shape.

    For images of another shape they would be right too, but up to 200 times slower.

    Raises:
        RuntimeError: if this processor cannot compute in that dtype.
    """

    def __init__(self, conv: nn.Conv2d, shape: torch.Size) -> None:
        self.how = (conv.padding, conv.stride, conv.dilation, conv.groups)
        weight = conv.weight.detach()
        self.weight = _OPS._reorder_convolution_weight(weight, *self.how, list(shape))

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution of x plus the bias."""
        return _OPS._convolution_pointwise(x, self.weight, bias, *self.how, "none", [], "")


Packed = Tiles | OneDNN


class PackedConv2d(nn.Conv2d):
    """A convolution that packs its weight when it is first run on a CPU without gradients.

    Same parameters and results as the convolution it replaces. With gradients, on other devices,
    for more than `MOST` shapes and where packing is impossible it is that convolution. A changed
    weight is packed again. One of bfloat16 images, 1x1 or 3x3, runs on matrix tiles where the
    processor has them, see `kernels.convolution`; others by oneDNN.

    Args:
        conv: any `nn.Conv2d`; weight and bias are shared with it, its hooks stay.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        # Dictionaries hold parameters and hooks; the layers share what is in them.
        for name, value in conv.__dict__.items():
            self.__dict__[name] = copy.copy(value) if isinstance(value, dict) else value
        self._packs: dict[torch.Size, tuple[int, Packed | None]] = {}
        zeros = isinstance(conv.padding, tuple) and conv.padding_mode == "zeros"
        self._possible = zeros and ABSENT is None
        borders = ((1, 1), (0, 0)), ((3, 3), (1, 1))
        self._tiles = (conv.kernel_size, conv.padding) in borders
        self._tiles &= (conv.stride, conv.dilation, conv.groups) == ((1, 1), (1, 1), 1)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of x (batch, C, H, W)."""
        if x.is_cpu and self._possible and not (torch.is_grad_enabled() and x.requires_grad):
            packed = self._packed(x)
            if packed is not None:
                return packed(x, self.bias)
        return super().forward(x)

    def _packed(self, x: Tensor) -> Packed | None:
        """Weight in the order that suits x; None if there is no such thing for x."""
        weight, packs = self.weight, self._packs
        found = packs.get(x.shape)
        if found is not None and found[0] == weight._version:
            return found[1]
        if torch.compiler.is_compiling() or weight.requires_grad or x.dtype != weight.dtype:
            return None
        if x.numel() == 0 or (found is None and len(packs) == MOST):
            return None
        packed = self._pack(x.shape)
        packs[x.shape] = (weight._version, packed)
        return packed

    def _pack(self, shape: torch.Size) -> Packed | None:
        weight = self.weight
        if self._tiles and weight.dtype == torch.bfloat16 and fits(shape, weight.shape):
            others = [pack for version, pack in self._packs.values() if version == weight._version]
            return next((pack for pack in others if isinstance(pack, Tiles)), None) or Tiles(self)
        try:
            return OneDNN(self, shape)
        except RuntimeError:
            return None

    def _apply(self, fn: Any, recurse: bool = True) -> PackedConv2d:
        self._packs = {}
        super()._apply(fn, recurse)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Without the packed weights, which cannot be stored."""
        return {**self.__dict__, "_packs": {}}


def pack_convolutions(net: nn.Module) -> nn.Module:
    """Replaces every convolution inside `net` by a `PackedConv2d`, in place; returns `net`."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and not isinstance(child, PackedConv2d):
                setattr(parent, name, PackedConv2d(child))
    return net
