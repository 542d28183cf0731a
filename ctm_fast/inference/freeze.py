"""`freeze`: a network that is only run, laid out for the machine that runs it."""

from __future__ import annotations

import copy
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..models.unet import UNet, blocks_of
from .foreign import accelerated
from .foreign_module import TAKEN
from .fp8 import fp8_pointwise
from .heap import keep_heap
from .packed import pack_convolutions
from .tables import Tabulated

Network = TypeVar("Network", bound=nn.Module)
DType = torch.dtype | Literal["fast"] | None

TOLERANCE = {
    torch.bfloat16: 5e-2,
    torch.float16: 1e-2,
    torch.float32: 1e-4,
    torch.float64: 1e-9,
}
"""Largest root mean square of the difference to the original, as a share of its own output's."""
NOTHING = 1e-3  # outputs smaller than this, as those of an untrained network, are compared with it


def fast_dtype(device: torch.device | str = "cpu") -> torch.dtype:
    """The dtype in which networks run fastest: bfloat16 where the device multiplies it, float32."""
    device = torch.device(device)
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        # Without such instructions bfloat16 is emulated, and slower than float32.
        names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        fast = any(bool(getattr(torch.cpu, name, bool)()) for name in names)
    return torch.bfloat16 if fast else torch.float32


def freeze(
    model: Network,
    dtype: DType = "fast",
    device: torch.device | str | None = None,
    *,
    batch: int = 1,
    release: bool = False,
    tolerance: float | None = None,
    fp8: bool = False,
    **overrides: Any,
) -> Network:
    """A copy of a network that is only run: same call, same state dict, faster.

    In eval mode, no weight takes a gradient (inputs may), weights in one dtype and channels-last;
    on a CPU convolutions with oneDNN's packed weights, on a GPU the convolutions' biases where
    they cost nothing. A frozen `Denoiser` called with numbers as levels keeps what its network
    makes of them (see `Tabulated`). Changed weights are respected, but it is not meant to learn.

    One random batch is run through both networks, which also packs the weights for its size.

    A network of another code base (EDM's and ECT's with or without their wrappers, ctm-cifar10's,
    the UNetModel of openai and sony/ctm, diffusers' UNet2DModel) is rebuilt on our layers, and
    comes back in a module that is called as the original and answers as it does, in eval mode.
    What its state dict does not show (image size, heads and their order, scalings) is taken from
    the module, or tried; random batches decide. Its state dict has our names.

    Args:
        model: a `Denoiser`, one of our networks, or a module as above.
        dtype: of the weights; "fast" for `fast_dtype` of the device, None to leave them as they
            are. Inputs and outputs of a Denoiser stay in the dtype of x.
        device: where the copy lies; None for where the model is.
        batch: images of that batch, for example as many as it will be called with; >= 1.
        release: convert the model itself instead of a copy, which needs no second one in memory.
            It stays converted where the comparison then refuses it. A foreign module is emptied.
        tolerance: largest root mean square of the difference, as a share of the output's; by
            default 0.05 in bfloat16, 0.01 in float16, 1e-4 in float32.
        fp8: multiply by 1x1 convolutions in 8 bits, for a teacher on a recent GPU; loses accuracy,
            see `inference.fp8`.
        overrides: what is known of a foreign module, for example `img_resolution`,
            `channels_per_head` or `attention_order` ("new" or "legacy").

    Raises:
        ValueError: for another kind of model, a bad dtype or batch, or if the two disagree by more;
            where 8 bits are impossible or lose too much.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}; it must be at least 1")
    if isinstance(model, nn.Module) and not isinstance(model, Denoiser | UNet):
        return accelerated(  # type: ignore[return-value]
            model,
            freeze,
            TOLERANCE,
            tolerance=tolerance,
            release=release,
            batch=batch,
            overrides=overrides,
            dtype=dtype,
            device=device,
            fp8=fp8,
        )
    if overrides:
        raise ValueError(f"{sorted(overrides)} mean nothing to a network of ctm_fast.models")
    net = model.net if isinstance(model, Denoiser) else model
    if not isinstance(net, UNet):
        raise ValueError(f"freeze takes {TAKEN}; got {type(net).__name__}")
    first = next(net.parameters())
    device = torch.device(device) if device is not None else first.device
    chosen = fast_dtype(device) if dtype == "fast" else dtype or first.dtype
    if chosen not in TOLERANCE:
        raise ValueError(f"dtype is {chosen}; choose from {sorted(map(str, TOLERANCE))} or 'fast'")
    with torch.inference_mode(False), torch.no_grad():
        given = _random_call(net, batch)
        expected = _run(net, given)
        twin = net if release else _copied(net, chosen, device)
        _convert(twin, chosen, device)
        _compare(_run(twin, given), expected, TOLERANCE[chosen] if tolerance is None else tolerance)
        if fp8:
            fp8_pointwise(twin, lambda: _run(twin, given))
    if not isinstance(model, Denoiser):
        return twin  # type: ignore[return-value]
    frozen = Tabulated(model, twin)
    return frozen  # type: ignore[return-value]


def _copied(net: UNet, dtype: torch.dtype, device: torch.device) -> UNet:
    """A copy that shares nothing, its weights converted at once instead of copied first."""
    converted: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to(device, dtype, copy=True), requires_grad=False)
        for p in net.parameters()
    }
    return copy.deepcopy(net, converted)


def _convert(net: UNet, dtype: torch.dtype, device: torch.device) -> None:
    """Freezes a network in place."""
    net.eval().requires_grad_(False)
    net.to(device=device, dtype=dtype)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cpu":
        pack_convolutions(net)
        keep_heap()
    for block in (*blocks_of(net.enc), *blocks_of(net.dec)):
        # oneDNN adds a bias for nothing, cuDNN in a pass of its own.
        block.bias_in_norm = device.type == "cuda"
    net.pack()


def _random_call(net: UNet, batch: int) -> dict[str, Tensor]:
    """Arguments of one call, drawn for this network; the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    size = net.img_resolution
    given = {
        "x": torch.randn(batch, net.img_channels, size, size, generator=generator),
        "c_noise": torch.linspace(0.3, -0.9, batch),
    }
    if net.has_destination:
        given["c_noise_to"] = torch.linspace(-0.2, -1.6, batch)
    if net.label_dim:
        given["labels"] = torch.randint(net.label_dim, (batch,), generator=generator)
    return given


def _run(net: UNet, given: dict[str, Tensor]) -> Tensor:
    first = next(net.parameters())
    x, *_ = given.values()
    others: dict[str, Any] = {k: v.to(first.device) for k, v in given.items() if k != "x"}
    modes = [(module, module.training) for module in net.modules()]
    try:
        return net.eval()(x.to(first), **others).double().cpu()
    finally:
        for module, training in modes:
            module.training = training


def _compare(found: Tensor, expected: Tensor, tolerance: float) -> None:
    size = max(float(expected.square().mean().sqrt()), NOTHING)
    error = float((found - expected).square().mean().sqrt()) / size
    if not error <= tolerance:
        raise ValueError(
            f"the frozen network differs from the original by {error:.2g} of its output "
            f"(root mean square), more than the tolerance {tolerance:.2g}; choose another dtype, "
            "or a larger tolerance"
        )
