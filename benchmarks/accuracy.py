"""The one accuracy rule of the kernels: at most twice the error of plain PyTorch, plus one ulp."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_map


def fault(
    fast: torch.Tensor,
    same_dtype: torch.Tensor,
    exact: torch.Tensor,
    times: float = 2.0,
    *,
    unit: torch.dtype | None = None,
    slack: float = 1.0,
) -> str | None:
    """What is wrong with a result, in its largest and its mean error; None if nothing is.

    Args:
        fast: what the kernel returned.
        same_dtype: what plain PyTorch returned for the same inputs, in the same dtype.
        exact: the same in float64.
        times: PyTorch's error may be exceeded this many times.
        unit: dtype whose unit in the last place is granted on top; fast's dtype if None.
        slack: how many times the permitted error is accepted, >= 1.

    Returns:
        reason: dtype or shape differ, a value is not finite where the exact one is, or the error
            is above slack (times PyTorch's + one unit in the last place).
    """
    if fast.dtype != same_dtype.dtype:
        return f"{fast.dtype} instead of {same_dtype.dtype}"
    if not fast.shape == exact.shape == same_dtype.shape:
        return f"shape {tuple(fast.shape)}, not {tuple(exact.shape)}"
    if exact.numel() == 0:
        return None
    exact = exact.detach().double()
    fast_error = (fast.detach().double() - exact).abs()
    allowed_error = (same_dtype.detach().double() - exact).abs()
    finite = exact.isfinite() & same_dtype.isfinite()
    if not fast[finite].isfinite().all():
        return f"{(~fast[finite].isfinite()).sum()} values not finite"
    if not finite.any():
        return None
    ulp = torch.finfo(unit or fast.dtype).eps
    size = exact[finite].abs()
    # Half a unit is what rounding alone can do to every element.
    for what, measure, units in (("largest", torch.max, 1.0), ("mean", torch.mean, 0.5)):
        error = measure(fast_error[finite]).item()
        allowed = times * measure(allowed_error[finite]).item()
        allowed = slack * (allowed + units * ulp * measure(size).item())
        if not error <= allowed:
            return f"{what} error {error:.3e}; allowed are {allowed:.3e}"
    return None


def in_float64(value: Any) -> Any:
    """Arguments with every floating tensor detached and in float64, and every dtype float64.

    A dtype among the arguments would otherwise round the result that has to be exact.
    """

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            return leaf.detach().double()
        return torch.float64 if isinstance(leaf, torch.dtype) else leaf

    return tree_map(convert, value)
