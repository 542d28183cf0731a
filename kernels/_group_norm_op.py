"""What every compiled group norm shares: how it is registered with torch, and its gradient."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ._registration import no_second_derivative
from .arguments import unrecorded

Tensor = torch.Tensor
Factor = torch.Tensor | None

LIBRARY = torch.library.Library("ctm_fast", "FRAGMENT")


def statistics(x: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Unwritten mean and 1 / standard deviation of every group, (batch, num_groups) float32."""
    shape = (x.shape[0], num_groups)
    mean = torch.empty(shape, dtype=torch.float32, device=x.device)
    return mean, torch.empty_like(mean)


def nothing(x: Tensor) -> Tensor:
    """What stands for a result that is not there."""
    return torch.empty(0, device=x.device)


def unwritten_sums(x: Tensor, factors: Sequence[Factor]) -> list[Factor]:
    """Unwritten float32 gradients of weight, bias, scale, shift and pre, where there is one."""
    return [
        None if t is None else torch.empty(t.shape, dtype=torch.float32, device=x.device)
        for t in factors
    ]


def rounded_sums(x: Tensor, factors: Sequence[Factor], sums: Sequence[Factor]) -> list[Tensor]:
    """The gradients in the factors' own dtypes; `nothing` where there is none."""
    return [nothing(x) if s is None or t is None else s.to(t.dtype) for s, t in zip(sums, factors)]


def register(
    name: str,
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    join: Callable[..., Tensor],
    devices: Sequence[str],
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Registers ctm_fast::<name> and ctm_fast::<name>_backward.

    Args:
        name: of the forward op.
        forward: (x, weight, bias, scale, shift, pre, residual, num_groups, eps, residual_scale,
            act) -> (y, summed, mean, rstd). scale, shift and pre are (batch, channels) or None;
            without a residual, `summed` is `nothing(x)`. x is dense and not empty, y and summed
            have its strides.
        backward: (dy, dsummed, x, weight, bias, scale, shift, pre, mean, rstd, num_groups,
            residual_scale, act) -> (dx, dweight, dbias, dscale, dshift, dpre). x is what was
            normalised: the sum, if there was a residual, and then dx is also the residual's
            gradient, residual_scale (dnormalised + dsummed). dsummed may be None.
        join: the op that makes x where there is a tail.
        devices: dispatch keys, for example "CPU".

    Returns:
        call: takes the public op's arguments, returns what it returns.
        registered: see `Op`.
    """
    LIBRARY.define(
        f"{name}(Tensor x, Tensor weight, Tensor bias, Tensor? scale, Tensor? shift, Tensor? pre, "
        "Tensor? residual, int num_groups, float eps, float residual_scale, bool act) "
        "-> (Tensor, Tensor, Tensor, Tensor)"
    )
    LIBRARY.define(
        f"{name}_backward(Tensor dy, Tensor? dsummed, Tensor x, Tensor weight, Tensor bias, "
        "Tensor? scale, Tensor? shift, Tensor? pre, Tensor mean, Tensor rstd, int num_groups, "
        "float residual_scale, bool act) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    )
    for device in devices:
        LIBRARY.impl(name, forward, device)
        LIBRARY.impl(f"{name}_backward", backward, device)
    torch.library.register_fake(f"ctm_fast::{name}", _fake_forward, lib=LIBRARY)
    torch.library.register_fake(f"ctm_fast::{name}_backward", _fake_backward, lib=LIBRARY)
    run, run_backward = (getattr(torch.ops.ctm_fast, n) for n in (name, f"{name}_backward"))

    def differentiate(ctx: Any, dy: Factor, dsummed: Factor, *_: Any) -> tuple[Any, ...]:
        x, *factors, mean, rstd = ctx.saved_tensors
        if dy is None:
            dy = torch.zeros_like(x)
        dx, *gradients = run_backward(
            *(dy, dsummed if ctx.summed else None, x, *factors, mean, rstd),
            *(ctx.num_groups, ctx.residual_scale, ctx.act),
        )
        kept = (None if t is None else d for t, d in zip(factors, gradients))
        return dx, *kept, dx if ctx.summed else None, None, None, None, None

    torch.library.register_autograd(
        f"ctm_fast::{name}", differentiate, setup_context=_save, lib=LIBRARY
    )
    no_second_derivative(LIBRARY, f"{name}_backward", "group_norm")

    def call(*args: Any, **kwargs: Any) -> Any:
        inputs, joined = inputs_of(join, *args, **kwargs)
        # The dispatcher costs ten microseconds; nobody needs it where nothing is recorded.
        y, summed, _, _ = forward(*inputs) if unrecorded(inputs) else run(*inputs)
        if joined is not None:
            return y, joined
        return y if summed.shape != y.shape else (y, summed)

    def registered(*args: Any, **kwargs: Any) -> list[tuple[Any, tuple[Any, ...]]]:
        inputs, _ = inputs_of(join, *args, **kwargs)
        x, *factors, residual, num_groups, _, residual_scale, act = inputs
        y, summed, mean, rstd = run(*inputs)
        normalised, dsummed = (x, None) if residual is None else (summed, summed)
        rest = (num_groups, residual_scale, act)
        return [
            (run.default, inputs),
            (run_backward.default, (y, dsummed, normalised, *factors, mean, rstd, *rest)),
        ]

    return call, registered


def _fake_forward(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    residual, num_groups = args[5:7]
    summed = nothing(x) if residual is None else torch.empty_like(x)
    return torch.empty_like(x), summed, *statistics(x, num_groups)


def _fake_backward(dy: Tensor, dsummed: Factor, x: Tensor, *args: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(x), *(
        nothing(x) if t is None else torch.empty(t.shape, dtype=t.dtype, device=t.device)
        for t in args[:5]
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, *factors, residual, ctx.num_groups, _, ctx.residual_scale, ctx.act = inputs
    _, summed, mean, rstd = output
    ctx.summed = residual is not None
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*(() if ctx.summed else (summed,)), mean, rstd)
    ctx.save_for_backward(summed if ctx.summed else x, *factors, mean, rstd)


def inputs_of(
    join: Callable[..., Tensor], *args: Any, tail: Factor = None, **kwargs: Any
) -> tuple[tuple[Any, ...], Factor]:
    """The op's arguments from the public op's, and what is normalised if `join` had to make it."""
    if len(args) == 12:
        tail, args = args[-1], args[:-1]
    inputs = _arguments(*args, **kwargs)
    if tail is None:
        return inputs, None
    x, *factors, residual, num_groups, eps, residual_scale, act = inputs
    joined = join(x, tail, residual, residual_scale)
    return (joined, *factors, None, num_groups, eps, 1.0, act), joined


def _arguments(
    x: Tensor,
    num_groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    scale: Factor = None,
    shift: Factor = None,
    pre: Factor = None,
    act: bool = False,
    residual: Factor = None,
    residual_scale: float = 1.0,
) -> tuple[Any, ...]:
    batch = x.shape[0]
    rows = (
        t if t is None or t.shape[0] == batch else t.expand(batch, -1) for t in (scale, shift, pre)
    )
    if residual is None:
        residual_scale = 1.0
    return x, weight, bias, *rows, residual, num_groups, float(eps), float(residual_scale), act
