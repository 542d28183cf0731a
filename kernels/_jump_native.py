"""The jump and its gradient in csrc/, registered with torch."""

from collections.abc import Callable
from typing import Any

import torch

from . import _native
from ._pointwise import dense, jump_arguments, new_gradients, new_state, register

Tensor = torch.Tensor


def _forward(x: Tensor, F: Tensor, P: Tensor, Q: Tensor) -> Tensor:
    jumped = new_state(x)
    _call(_native.module.jump, (x, F), (P, Q), (jumped,), F.dtype)
    return jumped


def _backward(
    g: Tensor, P: Tensor, Q: Tensor, network: torch.dtype, need_x: bool, need_F: bool
) -> tuple[Tensor, Tensor]:
    g = dense(g)
    dx, dF = new_gradients(g, P, Q, network, need_x, need_F)
    wanted = (dx if need_x else None, dF if need_F else None)
    _call(_native.module.jump_backward, (g,), (P, Q), wanted, network)
    return dx, dF


def _call(
    run: Any,
    images: tuple[Tensor, ...],
    factors: tuple[Tensor, Tensor],
    results: tuple[Tensor | None, ...],
    network: torch.dtype,
) -> None:
    state = images[0]
    if state.numel() == 0:
        return
    # Named here so that what .contiguous() may have made outlives the call.
    rows = [t.contiguous() for t in factors]
    batch = state.shape[0]
    run(
        *(0 if t is None else t.data_ptr() for t in (*images, *rows, *results)),
        *(batch, state.numel() // batch),
        *(_native.DTYPES[state.dtype], _native.DTYPES[network], torch.get_num_threads()),
    )


RUN: dict[str, Callable[..., Any]] = {"jump": _forward, "jump_backward": _backward}
LIBRARY = register("", RUN, ("CPU",))


def native_jump(*args: Any, **kwargs: Any) -> Tensor:
    """`reference` in one pass by csrc/, and its gradient in another one."""
    return torch.ops.ctm_fast.jump(*jump_arguments(*args, **kwargs))
