"""The accuracy rule of the kernels as an assertion; `benchmarks/accuracy.py` holds the rule."""

import torch

from benchmarks.accuracy import fault


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
    reason = fault(fast, same_dtype, exact, times)
    assert reason is None, reason
