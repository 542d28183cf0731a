"""Given images: shape, dtype, range."""

import pytest
import torch

from ctm_fast.editing.checks import checked_shape, checked_values

SHAPE = (3, 2, 2)
BAD = [
    (torch.zeros(2, 3, 4, 4), r"the image is \(2, 3, 4, 4\); need \(batch, 3, 2, 2\)"),
    (torch.zeros(3, 2, 2), r"is \(3, 2, 2\); need \(batch, 3, 2, 2\)"),
    (torch.zeros(0, 3, 2, 2), r"is \(0, 3, 2, 2\); need"),
    (torch.zeros(2, 3, 2, 2, dtype=torch.uint8), "is torch.uint8; need a float tensor"),
    ("low", "is str; need a float tensor"),
]


@pytest.mark.parametrize("images, message", BAD)
def test_other_shapes_and_dtypes_are_refused(images, message) -> None:
    for check in (checked_shape, lambda *a: checked_values(*a[:2], False, a[2])):
        with pytest.raises(ValueError, match=message):
            check(images, SHAPE, "the image")


def test_other_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"values up to 1.5; need \[-1, 1\], or clip=False"):
        checked_values(torch.full((2, *SHAPE), 1.5), SHAPE, True, "the image")
    for value in ("inf", "nan"):
        with pytest.raises(ValueError, match="not finite"):
            checked_values(torch.full((2, *SHAPE), float(value)), SHAPE, False, "the image")


def test_rounding_is_clamped_and_free_values_are_not() -> None:
    assert checked_values(torch.full((1, *SHAPE), 1.5), SHAPE, False, "x").max() == 1.5
    assert checked_values(torch.full((1, *SHAPE), 1 + 5e-7), SHAPE, True, "x").max() == 1
