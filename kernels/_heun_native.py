"""The Heun updates and added noise of csrc/, registered with torch."""

from collections.abc import Callable
from typing import Any

import torch

from . import _native
from ._pointwise import (
    Active,
    correct_arguments,
    new_both,
    new_scaled,
    noise_arguments,
    predict_arguments,
    register,
)

Tensor = torch.Tensor


def _call(
    images: tuple[Tensor, Tensor, Tensor | None],
    factors: tuple[Tensor | None, Tensor, Tensor | None, Tensor],
    active: Active,
    x_next: Tensor | None,
    scaled: Tensor,
) -> None:
    """One call of csrc/: fills `scaled`, and `x_next` if there is one."""
    x, F1, _ = images
    batch = x.shape[0]
    if x.numel() == 0:
        return
    # Named here so that what .contiguous() may have made outlives the call.
    small = [None if t is None else t.contiguous() for t in (*factors, active)]
    device, lane = -1, torch.get_num_threads()
    if x.is_cuda:
        device = x.get_device()
        if device != torch.cuda.current_device():
            with torch.cuda.device(device):
                return _call(images, factors, active, x_next, scaled)
        lane = torch.cuda.current_stream(device).cuda_stream
    _native.module.heun_step(
        *(0 if t is None else t.data_ptr() for t in (*images, *small, x_next, scaled)),
        *(batch, x.numel() // batch),
        *(_native.DTYPES[t.dtype] for t in (x, F1, scaled)),
        *(device, lane),
    )


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
    _call((x, F1, None), (alpha, beta, None, c_in), active, None, scaled)
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
    _call((x, F1, F2), (A, B, C, c_in), active, x_next, scaled)
    return x_next, scaled


def _add_noise(
    x: Tensor, noise: Tensor, level: Tensor, c_in: Tensor, out_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    noisy, scaled = new_both(x, out_dtype)
    _call((x, noise, None), (None, level, None, c_in), None, noisy, scaled)
    return noisy, scaled


RUN: dict[str, Callable[..., Any]] = {
    "heun_predict": _predict,
    "heun_correct": _correct,
    "add_noise": _add_noise,
}
LIBRARY = register("", RUN, ("CPU", "CUDA"))


def native_predict(*args: Any, **kwargs: Any) -> Tensor:
    """`reference_predict` in one pass by csrc/."""
    return torch.ops.ctm_fast.heun_predict(*predict_arguments(*args, **kwargs))


def native_correct(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """`reference_correct` in one pass by csrc/."""
    return torch.ops.ctm_fast.heun_correct(*correct_arguments(*args, **kwargs))


def native_add_noise(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """`add_noise` in one pass by csrc/."""
    return torch.ops.ctm_fast.add_noise(*noise_arguments(*args, **kwargs))
