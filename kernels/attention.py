"""Attention of every pixel to every pixel of its image, from queries, keys and values packed."""

from contextlib import AbstractContextManager, nullcontext
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ._attention_op import registered_calls, triton_attention
from ._attention_tiles import tiled_attention
from ._attention_triton import LAYOUTS, backward, fits, forward, memory_format
from ._triton import INTERPRETED
from .arguments import Draw, autocast_enabled, capability
from .op import Call, Op

Tensor = torch.Tensor
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def reference(qkv: Tensor, num_heads: int, layout: str = "adm") -> Tensor:
    """Output of every head, softmax(q k^T / sqrt(head width)) v over the pixels of an image.

    Products of queries and keys and their softmax are taken in float32 (float64 for float64), the
    weights are rounded to qkv's dtype. Autocast changes nothing. The torch and triton backends
    have first derivatives only.

    Args:
        qkv: (batch, 3 * heads * width, H, W) queries, keys and values.
        num_heads: heads.
        layout: order of the channels, by the names of the published networks: "adm" is
            ({q, k, v}, head, width), "adm-legacy" (head, {q, k, v}, width), "edm"
            (head, width, {q, k, v}).

    Returns:
        out: (batch, heads * width, H, W) in qkv's dtype, channels ordered (head, width). In
            channels-last order where qkv's channels lie side by side in memory.

    Raises:
        ValueError: an unknown layout, or a shape or dtype that does not fit.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), Eq. 1.
    """
    with _no_autocast(qkv):
        q, k, v = _split(qkv, num_heads, layout)
        wide = torch.promote_types(qkv.dtype, torch.float32)
        products = q.to(wide) @ k.to(wide).transpose(2, 3)
        weights = (products * q.shape[3] ** -0.5).softmax(3).to(qkv.dtype)
        return _merge(weights @ v, qkv)


def torch_attention(qkv: Tensor, num_heads: int, layout: str = "adm") -> Tensor:
    """`reference` by PyTorch's fused attention, without a copy of channels-last "adm"."""
    if qkv.shape[0] == 0 or qkv.shape[2] * qkv.shape[3] < 2:
        return reference(qkv, num_heads, layout)
    q, k, v = _split(qkv, num_heads, layout)
    if qkv.is_cuda and q.stride(3) != 1:
        # The fused kernels want the channels of a head side by side.
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    preferred = _preferred(qkv.device)
    with _no_autocast(qkv):
        if preferred is None:
            return _merge(F.scaled_dot_product_attention(q, k, v), qkv)
        with sdpa_kernel(preferred, set_priority=True):
            return _merge(F.scaled_dot_product_attention(q, k, v), qkv)


# What SDPA may use does not change while a graph is traced, and tracing cannot ask for it.
@torch.compiler.assume_constant_result
def _preferred(device: torch.device) -> list[SDPBackend] | None:
    """SDPA's kernels that are switched on, fastest first; None if its own order is the best."""
    if device.type != "cuda" or capability(device.index) < (9, 0):
        return None
    switches = torch.backends.cuda
    order = {
        SDPBackend.CUDNN_ATTENTION: switches.cudnn_sdp_enabled(),
        SDPBackend.FLASH_ATTENTION: switches.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: switches.mem_efficient_sdp_enabled(),
        SDPBackend.MATH: switches.math_sdp_enabled(),
    }
    return [backend for backend, enabled in order.items() if enabled]


def _no_autocast(qkv: Tensor) -> AbstractContextManager[Any]:
    kind = qkv.device.type
    if autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def _split(qkv: Tensor, num_heads: int, layout: str) -> list[Tensor]:
    """Queries, keys and values, each (batch, heads, pixels, width)."""
    batch, channels, height, width = qkv.shape
    sizes = (3, num_heads, channels // (3 * num_heads))
    order = LAYOUTS[layout]
    pixels = qkv.permute(0, 2, 3, 1)
    pixels = pixels.reshape(batch, height * width, *(sizes[axis] for axis in order))
    # In every layout the head comes before its width.
    return [part.transpose(1, 2) for part in pixels.unbind(2 + order.index(0))]


def _merge(out: Tensor, qkv: Tensor) -> Tensor:
    """(batch, heads * width, H, W) from (batch, heads, pixels, width), in qkv's memory order."""
    batch, channels, height, width = qkv.shape
    if memory_format(qkv) == torch.channels_last:
        pixels = out.transpose(1, 2).contiguous().view(batch, height, width, channels // 3)
        return pixels.permute(0, 3, 1, 2)
    planes = out.transpose(2, 3).clone(memory_format=torch.contiguous_format)
    return planes.view(batch, channels // 3, height, width)


def check(qkv: Tensor, num_heads: int, layout: str = "adm") -> None:
    """Raises ValueError unless the arguments fit together."""
    if qkv.ndim != 4 or qkv.dtype not in DTYPES:
        raise ValueError(
            f"qkv is {qkv.dtype} of shape {tuple(qkv.shape)}; it must be "
            f"(batch, 3 * heads * width, H, W) in one of {[str(dtype) for dtype in DTYPES]}"
        )
    channels = qkv.shape[1]
    if num_heads < 1 or channels == 0 or channels % (3 * num_heads):
        raise ValueError(
            f"{channels} channels do not divide into queries, keys and values of {num_heads} heads"
        )
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; choose from {sorted(LAYOUTS)}")


def unsupported(backend: str, qkv: Tensor, num_heads: int, layout: str = "adm") -> str | None:
    """Reason why a backend cannot run this call, or None."""
    if backend == "torch":
        compiling = torch.compiler.is_compiling()
        if not compiling and torch.autograd.forward_ad._current_level >= 0:
            return "torch's attention has no forward-mode derivative; use backend 'reference'"
        return None
    if qkv.dtype == torch.float64:
        return f"{backend} computes in float32, which a {qkv.dtype} qkv does not allow"
    if INTERPRETED and qkv.dtype == torch.bfloat16:
        return "triton's interpreter computes bfloat16 wrongly"
    pixels, width = qkv.shape[2] * qkv.shape[3], qkv.shape[1] // (3 * num_heads)
    if qkv.numel() > 0 and not fits(pixels, width, qkv.dtype):
        return f"{pixels} pixels by {width} channels of a head in {qkv.dtype} do not fit on chip"
    return None


def registered(
    qkv: Tensor, num_heads: int, layout: str = "adm"
) -> list[tuple[Any, tuple[Any, ...]]]:
    """The registered ops and their arguments for one call; none where Triton cannot run it."""
    if attention.why_not("triton", qkv, num_heads, layout) is not None:
        return []
    return registered_calls(qkv, num_heads, layout)


def launches(qkv: Tensor, num_heads: int, layout: str = "adm") -> None:
    """Runs both Triton kernels, if Triton takes this call."""
    if unsupported("triton", qkv, num_heads, layout) is None:
        out, lse = forward(qkv, num_heads, layout)
        backward(out, qkv, out, lse, num_heads, layout)


def example(
    *,
    shape: tuple[int, int, int, int],
    heads: int = 1,
    layout: str = "adm",
    dtype: torch.dtype = torch.float32,
    scale: float = 1.5,
    channels_last: bool = True,
    device: str = "cpu",
    seed: int = 0,
) -> Call:
    """Arguments of one call: qkv of `shape` with values of standard deviation `scale`."""
    qkv = Draw(seed, device, channels_last).normal(*shape, dtype=dtype, scale=scale)
    return (qkv, heads, layout), {}


def of_network(sizes: tuple[int, int, int], batch: int, dtype: torch.dtype) -> dict[str, Any]:
    """Example of square images; sizes are pixels, heads and width of a head."""
    pixels, heads, width = sizes
    side = isqrt(pixels)
    return {"shape": (batch, 3 * heads * width, side, side), "heads": heads, "dtype": dtype}


BFLOAT, HALF = {"dtype": torch.bfloat16}, {"dtype": torch.float16}
CASES: list[dict[str, Any]] = [
    {"shape": (1, 96, 5, 7), "heads": 2},
    {"shape": (2, 144, 3, 5), "heads": 2, "layout": "adm-legacy", **HALF},
    {"shape": (3, 96, 4, 4), "heads": 2, "layout": "edm", **BFLOAT},
    {"shape": (0, 48, 2, 2)},
    {"shape": (1, 15, 3, 3), "channels_last": False},
    {"shape": (1, 288, 5, 7), **HALF},
    {"shape": (2, 288, 6, 6), **BFLOAT, "channels_last": False},
    {"shape": (2, 216, 9, 8), "heads": 3, "layout": "edm", **HALF, "channels_last": False},
    {"shape": (1, 144, 9, 9), "heads": 3, "scale": 4.0},
    {"shape": (3, 48, 1, 1), **BFLOAT},
    {"shape": (3, 72, 1, 1), "layout": "adm-legacy", "channels_last": False},
    {"shape": (2, 6, 1, 4)},
]
BENCH: list[dict[str, Any]] = [
    of_network(sizes, 4 if sizes[0] == 1024 else 8, dtype)
    for sizes in ((64, 1, 256), (256, 1, 256), (1024, 6, 64))
    for dtype in (torch.float32, torch.bfloat16)
]
UNETS = ((256, 1, 256), (64, 1, 256), (1024, 6, 64), (256, 9, 64), (64, 12, 64))
BENCH_GPU: list[dict[str, Any]] = [
    of_network(sizes, batch, dtype)
    for batch, dtype in (
        (11, torch.bfloat16),
        (64, torch.bfloat16),
        (64, torch.float16),
        (64, torch.float32),
    )
    for sizes in UNETS
]

attention = Op(
    "attention",
    reference,
    torch=torch_attention,
    triton=triton_attention,
    check=check,
    unsupported=unsupported,
    registered=registered,
    differentiable=True,
    example=example,
    cases=CASES,
    bench=BENCH,
    bench_gpu=BENCH_GPU,
    launches=launches,
    quick=tiled_attention,
)
