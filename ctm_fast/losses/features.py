"""Distance between feature maps whose pixels are normalised over channels, as in LPIPS."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def normalised_distance(a: Tensor, b: Tensor, heads: Tensor | None, eps: float) -> Tensor:
    """sum_c heads_c |a_c / (|a| + eps) - b_c / (|b| + eps)|^2, mean over pixels: (batch,).

    Norms and sums are float32 (float64 for such maps), whatever the dtype of the maps; no float32
    copy of a map outlives the call. Differentiable in `a` once; where all channels of a pixel of
    `a` are 0 its gradient is 0.

    Args:
        a: (batch, C, H, W) features of the estimate.
        b: the same of the target, without gradient.
        heads: (C,) weights of the channels; None: all 1.
        eps: added to the norms, > 0.

    Source: Zhang et al. 2018, arXiv:1801.03924, Eq. 1, with squares weighted as in its code.
    """
    result: Tensor = _Distance.apply(a, b, heads, eps)
    return result


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, heads: Tensor | None, eps: float) -> Tensor:
        norm, norm_b = _norm(a), _norm(b)
        ctx.save_for_backward(a, b, heads, norm, norm_b)
        ctx.eps = eps
        squares = _difference(a, b, norm, norm_b, eps).square_()
        if heads is not None:
            squares *= _column(heads, squares)
        return squares.sum(1).flatten(1).mean(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        a, b, heads, norm, norm_b = ctx.saved_tensors
        towards = _difference(a, b, norm, norm_b, ctx.eps)
        if heads is not None:
            towards *= _column(heads, towards)
        pixels = a.shape[2] * a.shape[3]
        towards *= (gradient.to(towards.dtype) * (2 / pixels)).reshape(-1, 1, 1, 1)
        # d(a / (n + eps)) = da / (n + eps) - a <a, da> / (n (n + eps)^2)
        along = (towards * a).sum(1, keepdim=True)
        factor = 1 / (norm + ctx.eps)
        towards *= factor
        towards -= a * (along * factor**2 / norm)
        return towards.masked_fill_(norm == 0, 0).to(a.dtype), None, None, None


def _norm(x: Tensor) -> Tensor:
    """(batch, 1, H, W) norms over channels."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=wide)


def _difference(a: Tensor, b: Tensor, norm: Tensor, norm_b: Tensor, eps: float) -> Tensor:
    difference = a * (1 / (norm + eps))
    difference -= b * (1 / (norm_b + eps))
    return difference


def _column(heads: Tensor, like: Tensor) -> Tensor:
    return heads.to(like.dtype).reshape(1, -1, 1, 1)
