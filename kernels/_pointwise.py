"""What the C++ and the Triton versions of the elementwise ops share: arguments and registration."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from . import _native, _triton
from ._registration import no_second_derivative
from .arguments import column, same_dense_layout

Tensor = torch.Tensor
Active = torch.Tensor | None

SCHEMAS = {
    "heun_predict": "(Tensor x, Tensor F1, Tensor alpha, Tensor beta, Tensor c_in, "
    "Tensor? active, ScalarType out_dtype) -> Tensor",
    "heun_correct": "(Tensor x, Tensor F1, Tensor F2, Tensor A, Tensor B, Tensor C, Tensor c_in, "
    "Tensor? active, ScalarType out_dtype) -> (Tensor, Tensor)",
    "add_noise": "(Tensor x, Tensor noise, Tensor level, Tensor c_in, ScalarType out_dtype) "
    "-> (Tensor, Tensor)",
    "jump": "(Tensor x, Tensor F, Tensor P, Tensor Q) -> Tensor",
    "jump_backward": "(Tensor g, Tensor P, Tensor Q, ScalarType network, bool need_x, bool need_F) "
    "-> (Tensor, Tensor)",
}


def new_state(x: Tensor, *args: Any) -> Tensor:
    """Memory for a result like x."""
    return torch.empty_like(x)


def new_scaled(x: Tensor, *args: Any) -> Tensor:
    """Memory for a result like x in the dtype that comes last among the arguments."""
    return torch.empty_like(x, dtype=args[-1])


def new_both(x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    """Memory for a state and for what the network sees of it."""
    return torch.empty_like(x), new_scaled(x, *args)


def new_gradients(
    g: Tensor, P: Tensor, Q: Tensor, network: torch.dtype, need_x: bool, need_F: bool
) -> tuple[Tensor, Tensor]:
    """Memory for the gradients of x and F; empty where not needed."""
    g = dense(g)
    dx = torch.empty_like(g) if need_x else g.new_empty(0)
    return dx, torch.empty_like(g, dtype=network) if need_F else g.new_empty(0)


NEW: dict[str, Callable[..., Any]] = {
    "heun_predict": new_scaled,
    "heun_correct": new_both,
    "add_noise": new_both,
    "jump": new_state,
    "jump_backward": new_gradients,
}
"""Memory for the results, which is also all that a compiler has to know about them."""

NETWORK_DTYPES = {
    torch.float32: (torch.float32, torch.bfloat16, torch.float16),
    torch.float64: (torch.float64, torch.float32, torch.bfloat16, torch.float16),
}
"""Dtypes of other images that go with a state."""


def no_gradient(backend: str, *args: Any) -> str | None:
    """Reason why a backend without derivatives cannot run this call, or None."""
    if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in args):
        return f"{backend} has no gradient, which an argument requires; use backend 'reference'"
    return None


def limits(backend: str, images: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> str | None:
    """Reason why the fast backends cannot run images[0] with the others and `dtypes`, or None."""
    x = images[0]
    if backend == "native" and x.is_cuda and x.dtype != torch.float32:
        return f"native has a float32 state only on CUDA, not {x.dtype}"
    for dtype in dtypes:
        if dtype not in NETWORK_DTYPES[x.dtype]:
            return f"{backend} has no {dtype} beside a {x.dtype} state"
    if not same_dense_layout(*images):
        return f"{backend} needs images that are all contiguous or all channels-last"
    return None


def dense(t: Tensor) -> Tensor:
    """t itself if it is contiguous or channels-last, else a contiguous copy."""
    return t if same_dense_layout(t) else t.contiguous()


def register(
    suffix: str, run: dict[str, Callable[..., Any]], devices: Sequence[str]
) -> torch.library.Library:
    """Defines ctm_fast::<name><suffix> for every name in `run`, with the gradient of the jump.

    Args:
        suffix: tells one implementation from another.
        run: name -> function of the arguments in `SCHEMAS`.
        devices: dispatch keys.

    Returns:
        library: the ops exist as long as it does.
    """
    library = torch.library.Library("ctm_fast", "FRAGMENT")
    for name, function in run.items():
        library.define(f"{name}{suffix}{SCHEMAS[name]}")
        for device in devices:
            library.impl(f"{name}{suffix}", function, device)
        torch.library.register_fake(f"ctm_fast::{name}{suffix}", NEW[name], lib=library)
    if "jump" in run:
        _register_gradient(library, suffix)
    return library


def _register_gradient(library: torch.library.Library, suffix: str) -> None:
    backward = getattr(torch.ops.ctm_fast, f"jump_backward{suffix}")

    def differentiate(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        P, Q, x, F = ctx.saved_tensors
        need_x, need_F, need_P, need_Q = ctx.needs_input_grad[:4]
        dx = dF = dP = dQ = None
        if need_x or need_F:
            dx, dF = backward(g, P, Q, ctx.network, need_x, need_F)
        if need_P:
            dP = _over_images(g * x, P)
        if need_Q:
            dQ = _over_images(g * F.to(g.dtype), Q)
        return dx if need_x else None, dF if need_F else None, dP, dQ

    def save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x, F, P, Q = inputs
        ctx.network = F.dtype
        need_P, need_Q = ctx.needs_input_grad[2:4]
        # Images are held on to only if a factor is learned.
        ctx.save_for_backward(P, Q, x if need_P else None, F if need_Q else None)

    torch.library.register_autograd(
        f"ctm_fast::jump{suffix}", differentiate, setup_context=save, lib=library
    )
    no_second_derivative(library, f"jump_backward{suffix}", "jump")


def _over_images(products: Tensor, factor: Tensor) -> Tensor:
    return products.sum_to_size(column(factor, products).shape).reshape(factor.shape)


def predict_arguments(
    x: Tensor,
    F1: Tensor,
    alpha: Tensor,
    beta: Tensor,
    c_in: Tensor,
    active: Active = None,
    *,
    out_dtype: torch.dtype | None = None,
) -> tuple[Any, ...]:
    """Arguments of `heun_predict` in the order of its schema."""
    return x, F1, alpha, beta, c_in, active, out_dtype or F1.dtype


def correct_arguments(
    x: Tensor,
    F1: Tensor,
    F2: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    c_in: Tensor,
    active: Active = None,
    *,
    out_dtype: torch.dtype | None = None,
) -> tuple[Any, ...]:
    """Arguments of `heun_correct` in the order of its schema."""
    return x, F1, F2, A, B, C, c_in, active, out_dtype or F1.dtype


def noise_arguments(
    x: Tensor,
    noise: Tensor,
    level: Tensor,
    c_in: Tensor,
    *,
    out_dtype: torch.dtype | None = None,
) -> tuple[Any, ...]:
    """Arguments of `add_noise` in the order of its schema."""
    return x, noise, level, c_in, out_dtype or x.dtype


def jump_arguments(x: Tensor, F: Tensor, P: Tensor, Q: Tensor) -> tuple[Tensor, ...]:
    """Arguments of `jump` in the order of its schema."""
    return x, F, P, Q


def registered(name: str, arguments: Callable[..., tuple[Any, ...]]) -> Callable[..., Any]:
    """Function that lists the registered ops of one call that run here, with their arguments."""

    def of_call(*args: Any, **kwargs: Any) -> list[tuple[Any, tuple[Any, ...]]]:
        values = arguments(*args, **kwargs)
        names = [(name, values)]
        if name == "jump":
            x, F, P, Q = values
            needs = ((True, True), (False, True), (True, False))
            names += [("jump_backward", (x, P, Q, F.dtype, *need)) for need in needs]
        native = _native.why_not([values[0]]) is None and not (name == "jump" and x.is_cuda)
        versions = {"": native, "_triton": _triton.why_not([values[0]]) is None}
        return [
            (getattr(torch.ops.ctm_fast, each + suffix).default, given)
            for suffix, runs in versions.items()
            if runs
            for each, given in names
        ]

    return of_call
