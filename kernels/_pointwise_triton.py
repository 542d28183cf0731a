"""The elementwise ops as Triton kernels: Heun's updates, added noise, the jump and its gradient."""

# Triton reads the types of a kernel's parameters off its arguments.
# mypy: allow-untyped-defs

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from ._pointwise import (
    Active,
    correct_arguments,
    dense,
    jump_arguments,
    new_both,
    new_gradients,
    new_scaled,
    new_state,
    noise_arguments,
    predict_arguments,
    register,
)
from ._triton import INTERPRETED, Config, config, launch, tl, triton

Tensor = torch.Tensor


@triton.jit
def _piece(size, BLOCK: tl.constexpr):
    """This program's sample, the offsets of its elements, and which of them exist."""
    pieces = tl.cdiv(size, BLOCK)
    i_n = (tl.program_id(0) // pieces).to(tl.int64)
    o_l = (tl.program_id(0) % pieces).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return i_n, i_n * size + o_l, o_l < size


@triton.jit
def _store(to, o_x, b_values, m_x):
    """Rounds as PyTorch does: a double becomes 16 bits by way of a float."""
    if to.dtype.element_ty.primitive_bitwidth < 32:
        b_values = b_values.to(tl.float32)
    tl.store(to + o_x, b_values.to(to.dtype.element_ty), mask=m_x)


@triton.jit
def _update_kernel(x, f1, f2, a, b, c, c_in, active, x_next, scaled, size, BLOCK: tl.constexpr):
    """x_next = a x + b f1 + c f2 and scaled = c_in x_next; None leaves out a factor or a result."""
    i_n, o_x, m_x = _piece(size, BLOCK)
    b_x = tl.load(x + o_x, mask=m_x)
    m_f = m_x
    if active is not None:
        b_active = tl.load(active + i_n)
        # What the network made of a sample that is off is not even read.
        m_f = m_x & b_active
    b_moved = b_x
    if a is not None:
        b_moved = tl.load(a + i_n) * b_x
    b_moved += tl.load(b + i_n) * tl.load(f1 + o_x, mask=m_f, other=0.0).to(b_x.dtype)
    if f2 is not None:
        b_moved += tl.load(c + i_n) * tl.load(f2 + o_x, mask=m_f, other=0.0).to(b_x.dtype)
    if active is not None:
        b_moved = tl.where(b_active, b_moved, b_x)
    if x_next is not None:
        tl.store(x_next + o_x, b_moved, mask=m_x)
    if scaled is not None:
        _store(scaled, o_x, tl.load(c_in + i_n) * b_moved, m_x)


@triton.jit
def _jump_backward_kernel(g, P, Q, dx, dF, size, BLOCK: tl.constexpr):
    """dx = P g and dF = Q g; None leaves out a result."""
    i_n, o_x, m_x = _piece(size, BLOCK)
    b_g = tl.load(g + o_x, mask=m_x)
    if dx is not None:
        tl.store(dx + o_x, tl.load(P + i_n) * b_g, mask=m_x)
    if dF is not None:
        _store(dF, o_x, tl.load(Q + i_n) * b_g, m_x)


@lru_cache(maxsize=256)
def _plan(size: int) -> tuple[int, Config]:
    """Programs per sample of `size` elements, and how they are compiled.

    Eight elements per thread are one 128-bit load of 16-bit values; small samples have fewer.
    """
    block = min(512, max(128, 1 << (size - 1).bit_length()))
    return -(-size // block), config(num_warps=max(1, block // 256), BLOCK=block)


def _launch(kernel: Any, images: tuple[Any, ...], factors: tuple[Any, ...], *results: Any) -> None:
    """Runs a kernel on images like images[0], (batch,) factors and results."""
    x = images[0]
    if x.numel() == 0:
        return
    batch = x.shape[0]
    size = x.numel() // batch
    pieces, settings = _plan(size)
    small = (None if t is None else t.contiguous() for t in factors)
    launch(kernel, (batch * pieces,), (*images, *small, *results, size), settings)


def _predict(
    x: Tensor,
    F1: Tensor,
    alpha: Tensor,
    beta: Tensor,
    c_in: Tensor,
    active: Active,
    out_dtype: torch.dtype,
) -> Tensor:
    scaled = new_scaled(x, out_dtype)
    factors = (alpha, beta, None, c_in, active)
    _launch(_update_kernel, (x, F1, None), factors, None, scaled)
    return scaled


def _correct(
    x: Tensor,
    F1: Tensor,
    F2: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    c_in: Tensor,
    active: Active,
    out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    x_next, scaled = new_both(x, out_dtype)
    _launch(_update_kernel, (x, F1, F2), (A, B, C, c_in, active), x_next, scaled)
    return x_next, scaled


def _add_noise(
    x: Tensor, noise: Tensor, level: Tensor, c_in: Tensor, out_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    noisy, scaled = new_both(x, out_dtype)
    factors = (None, level, None, c_in, None)
    _launch(_update_kernel, (x, noise, None), factors, noisy, scaled)
    return noisy, scaled


def _jump(x: Tensor, F: Tensor, P: Tensor, Q: Tensor) -> Tensor:
    jumped = new_state(x)
    _launch(_update_kernel, (x, F, None), (P, Q, None, None, None), jumped, None)
    return jumped


def _jump_backward(
    g: Tensor, P: Tensor, Q: Tensor, network: torch.dtype, need_x: bool, need_F: bool
) -> tuple[Tensor, Tensor]:
    g = dense(g)
    dx, dF = new_gradients(g, P, Q, network, need_x, need_F)
    wanted = (dx if need_x else None, dF if need_F else None)
    _launch(_jump_backward_kernel, (g,), (P, Q), *wanted)
    return dx, dF


RUN: dict[str, Callable[..., Any]] = {
    "heun_predict": _predict,
    "heun_correct": _correct,
    "add_noise": _add_noise,
    "jump": _jump,
    "jump_backward": _jump_backward,
}
LIBRARY = register("_triton", RUN, ("CUDA", "CPU") if INTERPRETED else ("CUDA",))


def triton_predict(*args: Any, **kwargs: Any) -> Tensor:
    """`reference_predict` by one Triton kernel."""
    return torch.ops.ctm_fast.heun_predict_triton(*predict_arguments(*args, **kwargs))


def triton_correct(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """`reference_correct` by one Triton kernel."""
    return torch.ops.ctm_fast.heun_correct_triton(*correct_arguments(*args, **kwargs))


def triton_add_noise(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """`add_noise` by one Triton kernel."""
    return torch.ops.ctm_fast.add_noise_triton(*noise_arguments(*args, **kwargs))


def triton_jump(*args: Any, **kwargs: Any) -> Tensor:
    """`jump` by one Triton kernel, and its gradient by another one."""
    return torch.ops.ctm_fast.jump_triton(*jump_arguments(*args, **kwargs))


def launch_predict(*args: Any, **kwargs: Any) -> None:
    """What `triton_predict` launches."""
    _predict(*predict_arguments(*args, **kwargs))


def launch_correct(*args: Any, **kwargs: Any) -> None:
    """What `triton_correct` launches."""
    _correct(*correct_arguments(*args, **kwargs))


def launch_add_noise(*args: Any, **kwargs: Any) -> None:
    """What `triton_add_noise` launches."""
    _add_noise(*noise_arguments(*args, **kwargs))


def launch_jump(*args: Any, **kwargs: Any) -> None:
    """What `triton_jump` and its gradient launch."""
    x, F, P, Q = jump_arguments(*args, **kwargs)
    _jump_backward(_jump(x, F, P, Q), P, Q, F.dtype, True, True)
