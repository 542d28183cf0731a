"""The Heun updates of csrc/, registered with torch as ctm_fast::heun_predict and heun_correct."""

from typing import Any

import torch

from . import _native

Tensor = torch.Tensor
Active = torch.Tensor | None


def _call(
    images: tuple[Tensor, Tensor, Tensor | None],
    factors: tuple[Tensor, Tensor, Tensor | None, Tensor],
    active: Active,
    x_next: Tensor | None,
    scaled: Tensor,
) -> None:
    """One call of csrc/: fills `scaled`, and `x_next` if F2 is there."""
    x, F1, _ = images
    batch = x.shape[0]
    if x.numel() == 0:
        return
    # Named here so that what .contiguous() may have made outlives the call.
    small = [None if t is None else t.contiguous() for t in (*factors, active)]
    if x.is_cuda:
        device, lane = x.get_device(), torch.cuda.current_stream(x.device).cuda_stream
    else:
        device, lane = -1, torch.get_num_threads()
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
    scaled = torch.empty_like(x, dtype=out_dtype)
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
    x_next, scaled = torch.empty_like(x), torch.empty_like(x, dtype=out_dtype)
    _call((x, F1, F2), (A, B, C, c_in), active, x_next, scaled)
    return x_next, scaled


LIBRARY = torch.library.Library("ctm_fast", "FRAGMENT")
LIBRARY.define(
    "heun_predict(Tensor x, Tensor F1, Tensor alpha, Tensor beta, Tensor c_in, Tensor? active, "
    "ScalarType out_dtype) -> Tensor"
)
LIBRARY.define(
    "heun_correct(Tensor x, Tensor F1, Tensor F2, Tensor A, Tensor B, Tensor C, Tensor c_in, "
    "Tensor? active, ScalarType out_dtype) -> (Tensor, Tensor)"
)
for _device in ("CPU", "CUDA"):
    LIBRARY.impl("heun_predict", _predict, _device)
    LIBRARY.impl("heun_correct", _correct, _device)


@torch.library.register_fake("ctm_fast::heun_predict", lib=LIBRARY)
def _fake_predict(x: Tensor, *args: Any) -> Tensor:
    return torch.empty_like(x, dtype=args[-1])


@torch.library.register_fake("ctm_fast::heun_correct", lib=LIBRARY)
def _fake_correct(x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x, dtype=args[-1])


def registered(*args: Any, out_dtype: torch.dtype | None = None) -> list[tuple[Any, Any]]:
    """The registered op and its arguments for one call of heun_predict or heun_correct."""
    # heun_correct takes seven tensors and maybe `active`, heun_predict five.
    count = 7 if len(args) >= 7 else 5
    op = torch.ops.ctm_fast.heun_predict if count == 5 else torch.ops.ctm_fast.heun_correct
    active = args[count] if len(args) > count else None
    return [(op.default, (*args[:count], active, out_dtype or args[1].dtype))]


def native_predict(
    x: Tensor,
    F1: Tensor,
    alpha: Tensor,
    beta: Tensor,
    c_in: Tensor,
    active: Active = None,
    *,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """`reference_predict` in one pass by csrc/."""
    out_dtype = out_dtype or F1.dtype
    return torch.ops.ctm_fast.heun_predict(x, F1, alpha, beta, c_in, active, out_dtype)


def native_correct(
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
) -> tuple[Tensor, Tensor]:
    """`reference_correct` in one pass by csrc/."""
    out_dtype = out_dtype or F1.dtype
    return torch.ops.ctm_fast.heun_correct(x, F1, F2, A, B, C, c_in, active, out_dtype)
