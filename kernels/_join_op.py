"""What every join shares: its checks, the memory of its result, its registration and gradient."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .arguments import unrecorded

Tensor = torch.Tensor
Image = torch.Tensor | None

LIBRARY = torch.library.Library("ctm_fast", "FRAGMENT")


def image_layout(x: Tensor) -> torch.memory_format:
    """Memory order of results that have x's; contiguous where both fit or none does."""
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def new_joined(x: Tensor, tail: Image, *args: Any) -> Tensor:
    """Memory for x's channels and those of tail, in x's memory order."""
    if tail is None:
        return torch.empty_like(x)
    batch, channels, height, width = x.shape
    shape = (batch, channels + tail.shape[1], height, width)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=image_layout(x))


def check_image(x: Tensor) -> None:
    """Raises ValueError unless x is a batch of images."""
    if x.ndim != 4 or x.shape[1] < 1 or not x.is_floating_point():
        raise ValueError(
            f"x is {x.dtype} of shape {tuple(x.shape)}; "
            "it must be (batch, channels, H, W) and floating"
        )


def check_joined(x: Tensor, tail: Image, residual: Image) -> None:
    """Raises ValueError unless `residual` can be added to the images x, and `tail` appended."""
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        raise ValueError(
            f"residual is {residual.dtype} of shape {tuple(residual.shape)}; it must be {x.dtype} "
            f"of shape {tuple(x.shape)}, like x"
        )
    if tail is None:
        return
    batch, _, height, width = x.shape
    fits = tail.ndim == 4 and tail.shape == (batch, tail.shape[1] or 1, height, width)
    if not fits or tail.dtype != x.dtype:
        raise ValueError(
            f"tail is {tail.dtype} of shape {tuple(tail.shape)}; it must be {x.dtype} of shape "
            f"({batch}, channels, {height}, {width}), like x"
        )


def joins(
    x: Tensor, tail: Image, residual: Image = None, residual_scale: float = 1.0
) -> tuple[Any, ...]:
    """Arguments in the order of the schema."""
    return x, tail, residual, 1.0 if residual is None else float(residual_scale)


def register(
    name: str, forward: Callable[..., Tensor], devices: Sequence[str]
) -> tuple[Callable[..., Tensor], Callable[..., Any]]:
    """Registers ctm_fast::<name>, with its gradient, which has all further ones.

    Args:
        name: of the op.
        forward: (x, tail, residual, residual_scale) -> joined, made by `new_joined`. x is dense.
        devices: dispatch keys, for example "CPU".

    Returns:
        call: takes the public op's arguments, returns what it returns.
        registered: see `Op`.
    """
    LIBRARY.define(
        f"{name}(Tensor x, Tensor? tail, Tensor? residual, float residual_scale) -> Tensor"
    )
    for device in devices:
        LIBRARY.impl(name, forward, device)
    torch.library.register_fake(f"ctm_fast::{name}", new_joined, lib=LIBRARY)
    torch.library.register_autograd(
        f"ctm_fast::{name}", _differentiate, setup_context=_save, lib=LIBRARY
    )
    run = getattr(torch.ops.ctm_fast, name)

    def call(*args: Any, **kwargs: Any) -> Tensor:
        inputs = joins(*args, **kwargs)
        return forward(*inputs) if unrecorded(inputs) else run(*inputs)

    def registered(*args: Any, **kwargs: Any) -> list[tuple[Any, tuple[Any, ...]]]:
        return [(run.default, joins(*args, **kwargs))]

    return call, registered


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, _, _, ctx.residual_scale = inputs
    ctx.head = x.shape[1]


def _differentiate(ctx: Any, g: Tensor) -> tuple[Image, ...]:
    need_x, need_tail, need_residual = ctx.needs_input_grad[:3]
    summed = tail = None
    if need_x or need_residual:
        summed = g[:, : ctx.head]
        if ctx.residual_scale != 1:
            summed = summed * ctx.residual_scale
    if need_tail:
        tail = g[:, ctx.head :]
    return summed if need_x else None, tail, summed if need_residual else None, None
