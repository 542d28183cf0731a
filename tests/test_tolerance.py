"""The accuracy rule itself: it accepts rounding and refuses anything more."""

import pytest
import torch

from tests.tolerance import assert_accurate


def values() -> tuple[torch.Tensor, torch.Tensor]:
    exact = torch.linspace(-4, 4, 1001, dtype=torch.float64)
    return exact.bfloat16(), exact


def test_accepts_plain_pytorch() -> None:
    rounded, exact = values()
    assert_accurate(rounded, rounded, exact)


def test_refuses_one_wrong_element() -> None:
    rounded, exact = values()
    wrong = rounded.clone()
    wrong[7] += 0.125
    with pytest.raises(AssertionError, match="largest error"):
        assert_accurate(wrong, rounded, exact)


def test_refuses_a_small_bias_everywhere() -> None:
    exact = torch.linspace(3, 4, 1001, dtype=torch.float64)
    with pytest.raises(AssertionError, match="mean error"):
        assert_accurate((exact * 1.0075).bfloat16(), exact.bfloat16(), exact)


def test_refuses_nan_and_another_dtype() -> None:
    rounded, exact = values()
    broken = rounded.clone()
    broken[0] = float("nan")
    with pytest.raises(AssertionError, match="not finite"):
        assert_accurate(broken, rounded, exact)
    with pytest.raises(AssertionError, match="instead of"):
        assert_accurate(rounded.float(), rounded, exact)
