"""The group norm of csrc/, registered with torch as `ctm_fast::group_norm`, with its gradient."""

from typing import Any

import torch

from . import _native

Tensor = torch.Tensor
Factor = torch.Tensor | None


def is_channels_last(x: Tensor) -> bool:
    """Whether csrc/ reads x as (batch, pixels, channels); where both fit, the longer rows win."""
    if not x.is_contiguous(memory_format=torch.channels_last):
        return False
    return not x.is_contiguous() or x.shape[1] > x.shape[2] * x.shape[3]


def _call(
    name: str,
    x: Tensor,
    factors: tuple[Tensor, Tensor, Factor, Factor, Factor],
    num_groups: int,
    act: bool,
    *rest: Any,
) -> None:
    """One call of csrc/ on weight, bias, scale, shift and pre; `rest` follows."""
    # Named here so that what .contiguous() may have made outlives the call.
    rows = [t if t is None or t.stride(-1) == 1 else t.contiguous() for t in factors]
    batch, channels, height, width = x.shape
    getattr(_native.module, name)(
        (
            x.data_ptr(),
            *(
                (0, 0, 0)
                if t is None
                else (t.data_ptr(), t.stride(0) if t.ndim == 2 else 0, _native.DTYPES[t.dtype])
                for t in rows
            ),
            (batch, channels, height * width, num_groups),
            *(_native.DTYPES[x.dtype], is_channels_last(x), act),
        ),
        *(t.data_ptr() if isinstance(t, Tensor) else 0 if t is None else t for t in rest),
        torch.get_num_threads(),
    )


def _statistics(x: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], num_groups)
    mean = torch.empty(shape, dtype=torch.float32, device=x.device)
    return mean, torch.empty_like(mean)


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Factor,
    shift: Factor,
    pre: Factor,
    num_groups: int,
    eps: float,
    act: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    y = torch.empty_like(x)
    mean, rstd = _statistics(x, num_groups)
    if x.numel() == 0:
        return y, mean.zero_(), rstd.zero_()
    factors = (weight, bias, scale, shift, pre)
    _call("group_norm", x, factors, num_groups, act, eps, y, mean, rstd)
    return y, mean, rstd


def _backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Factor,
    shift: Factor,
    pre: Factor,
    mean: Tensor,
    rstd: Tensor,
    num_groups: int,
    act: bool,
) -> tuple[Tensor, ...]:
    factors = (weight, bias, scale, shift, pre)
    dx = torch.empty_like(x)
    sums = [
        None if t is None else torch.empty(t.shape, dtype=torch.float32, device=x.device)
        for t in factors
    ]
    if x.numel() == 0:
        for t in sums:
            if t is not None:
                t.zero_()
    else:
        layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
        dy = dy.contiguous(memory_format=layout)
        rest = (dy, mean, rstd, dx, *sums)
        _call("group_norm_backward", x, factors, num_groups, act, *rest)
    return dx, *(
        torch.empty(0, device=x.device) if s is None or t is None else s.to(t.dtype)
        for s, t in zip(sums, factors)
    )


LIBRARY = torch.library.Library("ctm_fast", "FRAGMENT")
LIBRARY.define(
    "group_norm(Tensor x, Tensor weight, Tensor bias, Tensor? scale, Tensor? shift, Tensor? pre, "
    "int num_groups, float eps, bool act) -> (Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "group_norm_backward(Tensor dy, Tensor x, Tensor weight, Tensor bias, Tensor? scale, "
    "Tensor? shift, Tensor? pre, Tensor mean, Tensor rstd, int num_groups, bool act) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
LIBRARY.impl("group_norm", _forward, "CPU")
LIBRARY.impl("group_norm_backward", _backward, "CPU")


@torch.library.register_fake("ctm_fast::group_norm", lib=LIBRARY)
def _fake_forward(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), *_statistics(x, args[5])


@torch.library.register_fake("ctm_fast::group_norm_backward", lib=LIBRARY)
def _fake_backward(dy: Tensor, x: Tensor, *args: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(x), *(
        torch.empty(0, device=x.device) if t is None else torch.empty_like(t).contiguous()
        for t in args[:5]
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.num_groups, _, ctx.act = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.save_for_backward(*tensors, mean, rstd)


def _differentiate(ctx: Any, dy: Tensor, *_: Any) -> tuple[Any, ...]:
    x, *factors, mean, rstd = ctx.saved_tensors
    dx, *gradients = torch.ops.ctm_fast.group_norm_backward(
        dy, x, *factors, mean, rstd, ctx.num_groups, ctx.act
    )
    kept = (None if t is None else d for t, d in zip(factors, gradients))
    return dx, *kept, None, None, None


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    pass


def _refuse(ctx: Any, *gradients: Any) -> None:
    raise RuntimeError(
        "group_norm: the native backend has first derivatives only; for a gradient of a gradient "
        "call it inside use_backend('reference')"
    )


torch.library.register_autograd(
    "ctm_fast::group_norm", _differentiate, setup_context=_save, lib=LIBRARY
)
torch.library.register_autograd(
    "ctm_fast::group_norm_backward", _refuse, setup_context=_save_nothing, lib=LIBRARY
)


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
) -> tuple[Any, ...]:
    batch = x.shape[0]
    rows = (
        t if t is None or t.shape[0] == batch else t.expand(batch, -1) for t in (scale, shift, pre)
    )
    return x, weight, bias, *rows, num_groups, float(eps), act


def native_group_norm(*args: Any, **kwargs: Any) -> Tensor:
    """`reference` by csrc/: reads x from the cache after its first pass over it."""
    return torch.ops.ctm_fast.group_norm(*_arguments(*args, **kwargs))[0]


def registered(*args: Any, **kwargs: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    """The registered forward and backward op and their arguments for one call of group_norm."""
    forward, backward = torch.ops.ctm_fast.group_norm, torch.ops.ctm_fast.group_norm_backward
    inputs = _arguments(*args, **kwargs)
    *tensors, num_groups, _, act = inputs
    y, mean, rstd = forward(*inputs)
    return [
        (forward.default, inputs),
        (backward.default, (y, *tensors, mean, rstd, num_groups, act)),
    ]
