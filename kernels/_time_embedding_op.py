"""The noise-level embedding of _time_embedding_triton.py as an op of torch, with its gradient."""

from typing import Any

import torch
import torch.nn.functional as F

from ._registration import no_second_derivative
from ._time_embedding_triton import forward, unwritten
from ._triton import INTERPRETED, why_not
from .arguments import layer_dtype

Tensor = torch.Tensor
Rows = torch.Tensor | None


def backward(
    dy: Tensor,
    c_noise: Tensor,
    frequencies: Tensor,
    weight0: Tensor,
    weight1: Tensor,
    before: Rows,
    after: Rows,
    rows: Tensor,
    saved: Tensor,
    sin_first: bool,
    of_waves: bool,
) -> tuple[Tensor, ...]:
    """Gradients of what `forward` took, in its order; of c_noise and frequencies if `of_waves`.

    Three or four matrix products, which are the library's: no kernel of ours would be faster.
    """
    sum0, sum1 = saved.unbind()
    dsum1 = torch.ops.aten.silu_backward(dy, sum1)
    dtype = weight0.dtype
    dweight1, dbias1 = (dsum1.t() @ F.silu(sum0)).to(dtype), dsum1.sum(0, dtype=dtype)
    dsum0 = torch.ops.aten.silu_backward(dsum1 @ weight1.to(dsum1.dtype), sum0)
    dweight0, dbias0 = (dsum0.t() @ rows).to(dtype), dsum0.sum(0, dtype=dtype)
    dafter = None if after is None else _reduced(dsum1, after)
    dc_noise = dfrequencies = dbefore = None
    if of_waves or before is not None:
        drows = dsum0 @ weight0.to(dsum0.dtype)
        dbefore = None if before is None else _reduced(drows, before)
    if of_waves:
        wide = torch.float32
        first, second = drows.to(wide).chunk(2, dim=1)
        of_sin, of_cos = (first, second) if sin_first else (second, first)
        angles = c_noise.to(wide)[:, None] * frequencies.to(wide)
        dangles = of_sin * angles.cos() - of_cos * angles.sin()
        dc_noise = _reduced((dangles * frequencies.to(wide)).sum(1), c_noise)
        dfrequencies = (dangles * c_noise.to(wide)[:, None]).sum(0).to(frequencies.dtype)
    of_layers = dweight0, dbias0, dweight1, dbias1
    gradients = (dc_noise, dfrequencies, *of_layers, dbefore, dafter)
    return tuple(torch.empty(0, device=dy.device) if g is None else g for g in gradients)


def _reduced(gradient: Tensor, like: Tensor) -> Tensor:
    """Gradient of something with as many rows or one, in its dtype."""
    if like.shape[0] == 1 and gradient.shape[0] != 1:
        gradient = gradient.sum(0, keepdim=True, dtype=torch.float32)
    return gradient.to(like.dtype)


LIBRARY = torch.library.Library("ctm_fast", "FRAGMENT")
NAME = "time_embedding_triton"
LIBRARY.define(
    f"{NAME}(Tensor c_noise, Tensor frequencies, Tensor weight0, Tensor bias0, Tensor weight1, "
    "Tensor bias1, Tensor? before, Tensor? after, bool sin_first, ScalarType dtype) "
    "-> (Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    f"{NAME}_backward(Tensor dy, Tensor c_noise, Tensor frequencies, Tensor weight0, "
    "Tensor weight1, Tensor? before, Tensor? after, Tensor rows, Tensor saved, bool sin_first, "
    "bool of_waves) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
for _device in ("CUDA", "CPU") if INTERPRETED else ("CUDA",):
    LIBRARY.impl(NAME, forward, _device)
    LIBRARY.impl(f"{NAME}_backward", backward, _device)
RUN, RUN_BACKWARD = (getattr(torch.ops.ctm_fast, n) for n in (NAME, f"{NAME}_backward"))


@torch.library.register_fake(f"ctm_fast::{NAME}", lib=LIBRARY)
def _fake_forward(
    c_noise: Tensor, frequencies: Tensor, weight0: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    before, after, _, dtype = rest[3:]
    return unwritten(c_noise, weight0, before, after, dtype)


@torch.library.register_fake(f"ctm_fast::{NAME}_backward", lib=LIBRARY)
def _fake_backward(
    dy: Tensor,
    c_noise: Tensor,
    frequencies: Tensor,
    weight0: Tensor,
    weight1: Tensor,
    before: Rows,
    after: Rows,
    rows: Tensor,
    saved: Tensor,
    sin_first: bool,
    of_waves: bool,
) -> tuple[Tensor, ...]:
    waves = (c_noise, frequencies) if of_waves else (None, None)
    bias0, bias1 = weight0[:, 0], weight1[:, 0]
    return tuple(
        torch.empty(0, device=dy.device)
        if t is None
        else torch.empty(t.shape, dtype=t.dtype, device=t.device)
        for t in (*waves, weight0, bias0, weight1, bias1, before, after)
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    c_noise, frequencies, weight0, _, weight1, _, before, after, ctx.sin_first, _ = inputs
    _, rows, saved = output
    ctx.mark_non_differentiable(rows, saved)
    ctx.save_for_backward(c_noise, frequencies, weight0, weight1, before, after, rows, saved)


def _differentiate(ctx: Any, dy: Tensor, *_: Any) -> tuple[Any, ...]:
    of_waves = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
    gradients = RUN_BACKWARD(dy, *ctx.saved_tensors, ctx.sin_first, of_waves)
    wanted = zip(gradients, ctx.needs_input_grad)
    return *(gradient if needed else None for gradient, needed in wanted), None, None


torch.library.register_autograd(
    f"ctm_fast::{NAME}", _differentiate, setup_context=_save, lib=LIBRARY
)
no_second_derivative(LIBRARY, f"{NAME}_backward", "time_embedding")


def _arguments(
    c_noise: Tensor,
    frequencies: Tensor,
    weight0: Tensor,
    bias0: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    sin_first: bool = False,
    before: Rows = None,
    after: Rows = None,
) -> tuple[Any, ...]:
    layers = weight0, bias0, weight1, bias1
    return c_noise, frequencies, *layers, before, after, sin_first, layer_dtype(weight0)


def triton_time_embedding(*args: Any, **kwargs: Any) -> Tensor:
    """`reference` in two kernels; what is looked up or recomputed is never in memory."""
    return RUN(*_arguments(*args, **kwargs))[0]


def launches(*args: Any, **kwargs: Any) -> None:
    """Launches the kernels of one call."""
    forward(*_arguments(*args, **kwargs))


def registered(*args: Any, **kwargs: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    """The registered ops and their arguments for one call; none where Triton cannot run it."""
    inputs = _arguments(*args, **kwargs)
    if why_not(inputs[:1]) is not None:
        return []
    c_noise, frequencies, weight0, _, weight1, _, before, after, sin_first, _ = inputs
    y, rows, saved = RUN(*inputs)
    saved_tensors = (c_noise, frequencies, weight0, weight1, before, after, rows, saved)
    return [
        (RUN.default, inputs),
        (RUN_BACKWARD.default, (y, *saved_tensors, sin_first, True)),
    ]
