"""Rows of a matrix as 8-bit floating-point numbers with a scale each, by one Triton launch.

Not an `Op`: an 8-bit result has no derivative, and float64 has no such rounding to judge it by.
"""

# Triton reads the types of a kernel's parameters off its arguments.
# mypy: allow-untyped-defs

from functools import lru_cache

import torch

from ._triton import Config, config, launch, tl, triton

Tensor = torch.Tensor
WIDEST = 8192
"""Most columns; a program keeps whole rows in registers."""


@triton.jit
def _quantise_kernel(
    rows, quantised, scales, number, width, unit, least, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """scale = max |row| unit, at least `least`, and row / scale in 8 bits."""
    o_m = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    o_k = tl.arange(0, BLOCK)
    m_m = o_m < number
    o_x = o_m[:, None] * width + o_k[None, :]
    m_x = m_m[:, None] & (o_k < width)[None, :]
    b_x = tl.load(rows + o_x, mask=m_x, other=0.0).to(tl.float32)
    # The interpreter takes numbers for doubles.
    b_scale = tl.maximum(tl.max(tl.abs(b_x), 1) * unit, least).to(tl.float32)
    b_y = b_x * tl.math.div_rn(tl.full((ROWS,), 1.0, tl.float32), b_scale)[:, None]
    tl.store(quantised + o_x, b_y.to(quantised.dtype.element_ty), mask=m_x)
    tl.store(scales + o_m, b_scale, mask=m_m)


@lru_cache(maxsize=64)
def _plan(width: int) -> Config:
    block = max(16, 1 << (width - 1).bit_length())
    return config(num_warps=4, ROWS=max(1, 4096 // block), BLOCK=block)


def quantise_rows(rows: Tensor, dtype: torch.dtype, least: float) -> tuple[Tensor, Tensor]:
    """(M, K) in `dtype`, and (M, 1) float32 scales, at least `least`.

    Args:
        rows: (M, K), of 16 or 32 bits, K at most WIDEST.
        dtype: an 8-bit floating-point dtype; the largest magnitude of a row becomes its largest.
        least: positive.
    """
    rows = rows.contiguous()
    number, width = rows.shape
    quantised = torch.empty(rows.shape, dtype=dtype, device=rows.device)
    scales = torch.empty((number, 1), dtype=torch.float32, device=rows.device)
    if rows.numel() > 0:
        settings = _plan(width)
        programs = -(-number // dict(settings.constants)["ROWS"])
        args = (rows, quantised, scales, number, width, 1 / torch.finfo(dtype).max, least)
        launch(_quantise_kernel, (programs,), args, settings)
    return quantised, scales
