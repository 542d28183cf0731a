"""1x1 convolutions of a frozen network as 8-bit floating-point products; off unless asked for.

Only matrix products: PyTorch has no 8-bit convolution, so 3x3 convolutions stay in bfloat16. In
DDPM++ 1x1 convolutions are 6 % of the work, in ADM-64 10 %. Embeddings stay as they are, too:
frozen networks read them from a table, and otherwise they are under a per mille of the work.
Rounding a pixel's channels to 8 bits moves three bytes each, and a product has to save more than
that. Counted in bytes and operations of an H100, not measured, it does so from about 384 channels
in and 640 out: queries, keys and values of ADM-64 and its widest skips, and nothing in DDPM++.

Source of the format: Micikevicius et al. 2022, FP8 formats for deep learning (arXiv:2209.05433).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import _triton
from ..kernels._quantise_triton import WIDEST, quantise_rows

FORMAT = torch.float8_e4m3fn
LARGEST = torch.finfo(FORMAT).max
LEAST = torch.finfo(torch.float32).tiny  # scale of a row of zeros
MIN_SNR = 20.0
"""Decibels between the output in bfloat16 and its change by quantisation; below, no fp8."""

WHOLE = 16  # a GPU multiplies 8-bit matrices whose sides divide by this


def fp8_pointwise(net: nn.Module, output: Callable[[], Tensor], min_snr: float = MIN_SNR) -> float:
    """Signal-to-noise ratio of a network's output after its 1x1 convolutions went to 8 bits.

    The network is changed in place: every 1x1 `nn.Conv2d` becomes an `Fp8Pointwise`, except those
    with channels that do not divide by 16. Queries, keys, values, projections and skips of our
    U-Nets are such convolutions.

    Args:
        net: frozen, in bfloat16, on the device where it will run.
        output: the network's output on a typical batch; called before the change and after it.
        min_snr: decibels, see `Raises`.

    Returns:
        snr: decibels, 10 log10 of the output's mean square over that of its change.

    Raises:
        ValueError: 8-bit products cannot run here, the network is not in bfloat16 or has no such
            convolution, or the ratio is below `min_snr`. The network is then as it was.
    """
    chosen = {
        (name, child): layer
        for name, parent in net.named_modules()
        for child, layer in parent.named_children()
        if _suits(layer)
    }
    if not chosen:
        raise ValueError(
            f"fp8 has nothing to do: this {type(net).__name__} has no 1x1 convolution whose "
            f"channels divide by {WHOLE}"
        )
    first = next(iter(chosen.values())).weight
    if first.dtype != torch.bfloat16:
        raise ValueError(f"fp8 needs a network in torch.bfloat16; this one is in {first.dtype}")
    reason = why_not(first.device.type)
    if reason is not None:
        raise ValueError(f"fp8 cannot run here: {reason}")
    with torch.no_grad():
        before = output().clone()
        for (name, child), layer in chosen.items():
            setattr(net.get_submodule(name), child, Fp8Pointwise(layer))
        snr = signal_to_noise(before, output())
    if not snr >= min_snr:  # a NaN is refused, too
        for (name, child), layer in chosen.items():
            setattr(net.get_submodule(name), child, layer)
        raise ValueError(
            f"fp8 changes the output too much: {snr:.1f} dB between signal and error, at least "
            f"{min_snr:g} dB are needed"
        )
    return snr


@functools.cache
def why_not(device: str) -> str | None:
    """Reason why 8-bit products cannot run on a device ("cpu" or "cuda"), or None if they can."""
    if device == "cuda":
        capability = torch.cuda.get_device_capability()
        if capability < (8, 9):
            has = ".".join(map(str, capability))
            return f"it needs compute capability 8.9 or higher; this GPU has {has}"
    elif device != "cpu":
        return f"it needs a CPU or a CUDA GPU, not {device}"
    a = torch.ones(WHOLE, WHOLE, device=device, dtype=FORMAT)
    scale = torch.ones(WHOLE, 1, device=device)
    try:
        product(a, scale, a, scale, None)
    except (RuntimeError, TypeError, AttributeError) as error:
        return f"torch {torch.__version__} has no such product for {device} ({_first_line(error)})"
    return None


class Fp8Pointwise(nn.Module):
    """A 1x1 convolution as one 8-bit product: bfloat16 in, float32 sums, bfloat16 out.

    Weights have a scale per output channel. Pixels have a scale each, found at every call, so no
    image depends on its neighbours in the batch. Where a gradient of the input is recorded, the
    plain convolution runs, with the weights that it was made from. Changed weights are quantised
    again; a captured graph does not notice them.

    Args:
        conv: in bfloat16; its weight and bias are shared, not copied.
    """

    weight: Tensor
    quantised: Tensor
    scale: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self._quantise()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, out_channels, H, W) in channels-last order.

        Args:
            x: (batch, in_channels, H, W) in the dtype of the weights.
        """
        plain = x.dtype != torch.bfloat16 or self.weight.dtype != torch.bfloat16
        if plain or x.numel() == 0 or (torch.is_grad_enabled() and x.requires_grad):
            return F.conv2d(x, self.weight, self.bias)
        if self._made_from != _version(self.weight):
            self._quantise()
        batch, channels, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
        out = product(*quantise(pixels), self.quantised, self.scale, self.bias)
        return out.view(batch, height, width, self.out_channels).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        """Channels."""
        return f"{self.in_channels}, {self.out_channels}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Fp8Pointwise:
        # A cast would spoil the 8-bit weights; they follow from the others.
        super()._apply(fn, recurse)
        self._quantise()
        return self

    def _quantise(self) -> None:
        quantised, scale = quantise(self.weight.detach().flatten(1))
        self.register_buffer("quantised", quantised, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self._made_from = _version(self.weight)


def quantise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """8-bit numbers (M, K) and scales (M, 1) float32 whose product is nearly `rows`, (M, K).

    The largest magnitude of every row becomes the format's largest, 448. On a GPU one launch.
    """
    if rows.is_cuda and rows.shape[1] <= WIDEST and _triton.why_not([rows]) is None:
        return quantise_rows(rows, FORMAT, LEAST)
    largest = torch.linalg.vector_norm(rows, math.inf, 1, keepdim=True, dtype=torch.float32)
    scale = (largest * (1 / LARGEST)).clamp_min(LEAST)
    return (rows.float() * scale.reciprocal()).to(FORMAT), scale


def product(
    rows: Tensor, row_scale: Tensor, weights: Tensor, weight_scale: Tensor, bias: Tensor | None
) -> Tensor:
    """(rows * row_scale) (weights * weight_scale)^T + bias, (M, N) bfloat16, summed in float32.

    Args:
        rows: (M, K) 8-bit.
        row_scale: (M, 1) float32.
        weights: (N, K) 8-bit.
        weight_scale: (N, 1) float32.
        bias: (N,) bfloat16, or None.
    """
    return torch._scaled_mm(
        *(rows, weights.t(), row_scale, weight_scale.t()),
        bias=bias,
        out_dtype=torch.bfloat16,
        # Hopper's fast sums have 14 bits.
        use_fast_accum=False,
    )


def emulated_product(
    rows: Tensor, row_scale: Tensor, weights: Tensor, weight_scale: Tensor, bias: Tensor | None
) -> Tensor:
    """`product` by its definition, in float64: (M, N) float64, not rounded to bfloat16."""
    a, b = rows.double() * row_scale.double(), weights.double() * weight_scale.double()
    return a @ b.t() if bias is None else a @ b.t() + bias.double()


def signal_to_noise(exact: Tensor, found: Tensor) -> float:
    """Decibels, 10 log10 of the mean square of `exact` over that of `found - exact`.

    Infinite where they are equal, NaN where one is not finite.
    """
    signal = exact.double().square().mean()
    noise = (found.double() - exact.double()).square().mean()
    if not bool(torch.isfinite(signal + noise)):
        return math.nan
    return math.inf if float(noise) == 0 else 10 * math.log10(float(signal / noise) or 1e-300)


def _version(weight: Tensor) -> int:
    """Counts the changes of a tensor; those made for inference do not count theirs."""
    return 0 if weight.is_inference() else weight._version


def _suits(layer: nn.Module) -> bool:
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride == (1, 1)
        and layer.padding == (0, 0)
        and layer.groups == 1
        and layer.in_channels % WHOLE == 0
        and layer.out_channels % WHOLE == 0
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
