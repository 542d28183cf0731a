"""Attention by Triton as a registered op, `ctm_fast::attention_triton`, with its gradient."""

from typing import Any

import torch

from ._attention_triton import backward, forward, memory_format, results
from ._registration import no_second_derivative
from ._triton import INTERPRETED

Tensor = torch.Tensor

LIBRARY = torch.library.Library("ctm_fast", "FRAGMENT")
LIBRARY.define("attention_triton(Tensor qkv, int num_heads, str layout) -> (Tensor, Tensor)")
LIBRARY.define(
    "attention_triton_backward(Tensor dout, Tensor qkv, Tensor out, Tensor lse, int num_heads, "
    "str layout) -> Tensor"
)
for key in ("CUDA", "CPU") if INTERPRETED else ("CUDA",):
    LIBRARY.impl("attention_triton", forward, key)
    LIBRARY.impl("attention_triton_backward", backward, key)


@torch.library.register_fake("ctm_fast::attention_triton", lib=LIBRARY)
def _fake_forward(qkv: Tensor, num_heads: int, layout: str) -> tuple[Tensor, Tensor]:
    return results(qkv, num_heads)


@torch.library.register_fake("ctm_fast::attention_triton_backward", lib=LIBRARY)
def _fake_backward(dout: Tensor, qkv: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(qkv, memory_format=memory_format(qkv))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, ctx.num_heads, ctx.layout = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(qkv, *output)


def _differentiate(ctx: Any, dout: Tensor, _: Any) -> tuple[Any, ...]:
    arguments = (dout, *ctx.saved_tensors, ctx.num_heads, ctx.layout)
    return torch.ops.ctm_fast.attention_triton_backward(*arguments), None, None


torch.library.register_autograd(
    "ctm_fast::attention_triton", _differentiate, setup_context=_save, lib=LIBRARY
)
no_second_derivative(LIBRARY, "attention_triton_backward", "attention")


def triton_attention(qkv: Tensor, num_heads: int, layout: str = "adm") -> Tensor:
    """Attention of packed queries, keys and values, with a packed gradient."""
    return torch.ops.ctm_fast.attention_triton(qkv, num_heads, layout)[0]


def registered_calls(qkv: Tensor, num_heads: int, layout: str) -> list[tuple[Any, tuple[Any, ...]]]:
    """The registered forward and backward op and their arguments for one call."""
    ops = torch.ops.ctm_fast
    out, lse = ops.attention_triton(qkv, num_heads, layout)
    gradient = (out.detach(), qkv.detach(), out.detach(), lse, num_heads, layout)
    return [
        (ops.attention_triton.default, (qkv, num_heads, layout)),
        (ops.attention_triton_backward.default, gradient),
    ]
