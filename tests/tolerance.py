"""The one accuracy rule of the kernels: at most twice the error of plain PyTorch, plus one ulp."""

import torch


def assert_accurate(
    fast: torch.Tensor, same_dtype: torch.Tensor, exact: torch.Tensor, times: float = 2.0
) -> None:
    """Compares the error of a kernel with that of plain PyTorch, in the largest and the mean value.

    Args:
        fast: what the kernel returned.
        same_dtype: what plain PyTorch returned for the same inputs, in the same dtype.
        exact: the same in float64.
        times: PyTorch's error may be exceeded this many times.

    Raises:
        AssertionError: shape or dtype differ, a value is not finite where the exact one is, or
            the error is above `times` PyTorch's plus one unit in the last place of fast's dtype.
    """
    assert fast.dtype == same_dtype.dtype, f"{fast.dtype} instead of {same_dtype.dtype}"
    assert fast.shape == exact.shape == same_dtype.shape, f"{fast.shape}, not {exact.shape}"
    if exact.numel() == 0:
        return
    exact = exact.detach().double()
    fast_error = (fast.detach().double() - exact).abs()
    allowed_error = (same_dtype.detach().double() - exact).abs()
    finite = exact.isfinite() & same_dtype.isfinite()
    assert fast[finite].isfinite().all(), f"{(~fast[finite].isfinite()).sum()} values not finite"
    if not finite.any():
        return
    ulp = torch.finfo(fast.dtype).eps
    size = exact[finite].abs()
    # Half a unit is what rounding alone can do to every element.
    for what, measure, units in (("largest", torch.max, 1.0), ("mean", torch.mean, 0.5)):
        error = measure(fast_error[finite]).item()
        allowed = times * measure(allowed_error[finite]).item()
        allowed += units * ulp * measure(size).item()
        assert error <= allowed, f"{what} error {error:.3e}; allowed are {allowed:.3e}"
