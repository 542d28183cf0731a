"""The optimizer step as two Triton launches, however many weights there are.

The first one computes what is one number per weight, in float64, and counts the step; the second
one goes over all memory. Neither the host nor the device waits for the other.
"""

# Triton reads the types of a kernel's parameters off its arguments.
# mypy: allow-untyped-defs

import math
from collections.abc import Sequence

import torch

from ._optimizer_weights import CLIP_EPS, PIECE, Rule, Step, Weights
from ._triton import config, launch, tl, triton

Tensor = torch.Tensor
NUMBERS = 6
"""Sent to the device: learning rate, beta1, beta2, eps, largest norm, loss scale; then decays."""


@triton.jit
def _finite(norm, like):
    """Whether the norm of all gradients is a finite number, for every element of `like`."""
    # Broadcast first: the interpreter loses the type of a comparison of two single numbers.
    return tl.abs(tl.broadcast_to(tl.load(norm), like.shape)) < float("inf")


@triton.jit
def _power(base, exponents):
    """base to whole powers below 2^24, in float64."""
    b_result = tl.full(exponents.shape, 1.0, tl.float64)
    b_left = exponents.to(tl.int32)
    for _ in range(24):
        b_result = tl.where(b_left & 1 == 1, b_result * base, b_result)
        base *= base
        b_left = b_left >> 1
    return b_result


@triton.jit
def _factors_kernel(
    numbers,
    grads,
    norm,
    steps,
    factors,
    n,
    RECTIFIED: tl.constexpr,
    CLIP_EPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Counts the step of each weight; factors is (4, n): those of `Rule.factors`, and the gain."""
    o_n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_n = o_n < n
    lr, beta1, beta2 = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2)
    eps, max_norm = tl.load(numbers + 3), tl.load(numbers + 4)
    gain = 1.0 / tl.load(numbers + 5)
    m_moves = m_n & (tl.load(grads + o_n, mask=m_n, other=0) != 0)
    if norm is not None:
        m_moves = m_moves & _finite(norm, o_n)
        clip = max_norm / (tl.load(norm).to(tl.float64) + CLIP_EPS)
        gain = tl.where(clip < 1.0, clip, 1.0) * gain
    b_steps = tl.load(steps + o_n, mask=m_moves, other=0.0) + 1.0
    tl.store(steps + o_n, b_steps, mask=m_moves)

    b_power = _power(beta2, b_steps)
    b_move, b_bias = lr / (1.0 - _power(beta1, b_steps)), 1.0 - b_power
    if RECTIFIED:
        limit = 2.0 / (1.0 - beta2) - 1.0
        b_length = limit - 2.0 * b_steps * b_power / b_bias
        b_certain = b_length > 5.0
        b_rect = (b_length - 4.0) * (b_length - 2.0) * limit
        b_rect = b_rect / ((limit - 4.0) * (limit - 2.0) * b_length)
        # The root of what is negative is not wanted where it is not used.
        b_rect = tl.where(b_certain, b_rect * b_bias, 1.0)
        b_scale, b_root = b_move * tl.sqrt(b_rect), tl.where(b_certain, 1.0, 0.0)
        b_offset = tl.where(b_certain, eps, 1.0)
    else:
        b_scale, b_root = b_move, 1.0 / tl.sqrt(b_bias)
        b_offset = tl.full((BLOCK,), 0.0, tl.float64) + eps
    tl.store(factors + o_n, b_scale.to(tl.float32), mask=m_n)
    tl.store(factors + n + o_n, b_root.to(tl.float32), mask=m_n)
    tl.store(factors + 2 * n + o_n, b_offset.to(tl.float32), mask=m_n)
    b_gain = tl.full((BLOCK,), 0.0, tl.float64) + gain
    tl.store(factors + 3 * n + o_n, b_gain.to(tl.float32), mask=m_n)


@triton.jit
def _pointer(table, ALIGNED: tl.constexpr):
    """The float array whose address stands at `table`."""
    pointer = tl.load(table).to(tl.pointer_type(tl.float32))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def _blend(old, new, decay):
    """decay old + (1 - decay) new, counted from the nearer end: at decay 0 it is new."""
    near = decay > 0.5
    by = tl.where(near, 1.0 - decay, -decay).to(tl.float32)
    return tl.where(near, old, new) + by * (new - old)


@triton.jit
def _update(
    table,
    grads,
    numbers,
    factors,
    n,
    i_n,
    o_x,
    m_x,
    AVERAGES: tl.constexpr,
    ALIGNED: tl.constexpr,
    NUMBERS: tl.constexpr,
):
    """Elements o_x of weight i_n, of its moments and of its averages."""
    table += i_n
    factors += i_n
    has_grad = tl.broadcast_to(tl.load(grads + i_n), o_x.shape) != 0
    m_g = m_x & has_grad
    p_x, p_g = _pointer(table, ALIGNED), _pointer(grads + i_n, ALIGNED)
    p_m, p_v = _pointer(table + n, ALIGNED), _pointer(table + 2 * n, ALIGNED)
    b_x = tl.load(p_x + o_x, mask=m_x)
    b_g = tl.load(p_g + o_x, mask=m_g, other=0.0)
    b_m = tl.load(p_m + o_x, mask=m_g, other=0.0)
    b_v = tl.load(p_v + o_x, mask=m_g, other=0.0)
    b_g *= tl.load(factors + 3 * n)
    b_m = _blend(b_m, b_g, tl.load(numbers + 1))
    b_v = _blend(b_v, b_g * b_g, tl.load(numbers + 2))
    b_below = tl.load(factors + n) * tl.sqrt_rn(b_v) + tl.load(factors + 2 * n)
    b_moved = b_x - tl.div_rn(tl.load(factors) * b_m, b_below)
    b_x = tl.where(has_grad, b_moved, b_x)
    tl.store(p_x + o_x, b_x, mask=m_g)
    tl.store(p_m + o_x, b_m, mask=m_g)
    tl.store(p_v + o_x, b_v, mask=m_g)
    for k in tl.static_range(AVERAGES):
        p_a = _pointer(table + (3 + k) * n, ALIGNED)
        b_a = tl.load(p_a + o_x, mask=m_x)
        tl.store(p_a + o_x, _blend(b_a, b_x, tl.load(numbers + NUMBERS + k)), mask=m_x)


@triton.jit
def _step_kernel(
    table,
    sizes,
    pieces,
    grads,
    numbers,
    norm,
    factors,
    n,
    programs,
    AVERAGES: tl.constexpr,
    ALIGNED: tl.constexpr,
    NUMBERS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Moments, weight and averages of one piece."""
    i_n = tl.load(pieces + tl.program_id(0))
    start = tl.load(pieces + programs + tl.program_id(0)).to(tl.int64) * BLOCK
    size = tl.load(sizes + i_n)
    o_x = start + tl.arange(0, BLOCK)
    m_all = tl.full((BLOCK,), 1, tl.int1)
    if norm is not None:
        m_all = m_all & _finite(norm, o_x)
    # A whole piece has no mask that differs between neighbours, so it is read 128 bits at a time.
    if start + BLOCK <= size:
        m_x = m_all
        _update(table, grads, numbers, factors, n, i_n, o_x, m_x, AVERAGES, ALIGNED, NUMBERS)
    else:
        m_x = m_all & (o_x < size)
        _update(table, grads, numbers, factors, n, i_n, o_x, m_x, AVERAGES, ALIGNED, NUMBERS)


def _inputs(
    weights: Weights, grads: Sequence[Tensor | None], rule: Rule, step: Step
) -> tuple[Tensor, Tensor, bool]:
    """(numbers, addresses of the gradients) on the device, and whether all is 16-byte aligned."""
    largest = math.inf if step.max_norm is None else step.max_norm
    numbers = [step.lr, rule.beta1, rule.beta2, rule.eps, largest, step.loss_scale, *step.decays]
    # A gradient without elements has no address, but it counts as one.
    addresses = [0 if g is None else g.data_ptr() or 16 for g in grads]
    key = (numbers, addresses)
    if weights.uploaded is None or weights.uploaded[0] != key:
        device, count = weights.steps.device, len(numbers)
        host = torch.empty(
            count + len(addresses), dtype=torch.int64, pin_memory=device.type == "cuda"
        )
        host[:count] = torch.tensor(numbers, dtype=torch.float64).view(torch.int64)
        host[count:] = torch.tensor(addresses)
        weights.uploaded = key, host.to(device, non_blocking=True)
    both = weights.uploaded[1]
    aligned = weights.aligned and not any(address & 15 for address in addresses)
    return both[: len(numbers)].view(torch.float64), both[len(numbers) :], aligned


def triton_step(weights: Weights, grads: Sequence[Tensor | None], rule: Rule, step: Step) -> None:
    """`optimizer_step` without a wait: what is not finite is left out on the device."""
    count = len(weights)
    ordered = weights.gradients(grads)
    numbers, addresses, aligned = _inputs(weights, ordered, rule, step)
    factors = torch.empty(4, count, device=weights.steps.device)
    first = config(RECTIFIED=rule.rectified, CLIP_EPS=CLIP_EPS, BLOCK=128)
    args = (numbers, addresses, step.norm, weights.steps, factors, count)
    launch(_factors_kernel, (-(-count // 128),), args, first)
    pieces = weights.pieces
    programs = pieces.shape[1]
    if programs:
        second = config(
            num_warps=8,
            AVERAGES=len(weights.averages),
            ALIGNED=aligned,
            NUMBERS=NUMBERS,
            BLOCK=PIECE,
        )
        tensors = (weights.table, weights.sizes, pieces, addresses, numbers, step.norm, factors)
        launch(_step_kernel, (programs,), (*tensors, count, programs), second)
