"""The two published rules for bytes, stored images as they are, grey ones in three channels."""

import pytest
import torch

from ctm_fast import data
from ctm_fast.data.dataset import ArrayDataset
from ctm_fast.evaluation.pixels import coloured, pixels_of, resized, uint8_rule


def one(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64).reshape(1, 1, 1, 1)


@pytest.mark.parametrize(
    ("value", "round", "trunc"),
    [
        (-1.0, 0, 0),
        (1.0, 255, 255),
        (-3.0, 0, 0),
        (3.0, 255, 255),
        (0.0, 128, 127),  # 127.5: a half goes up, or is cut off
        (100.4 / 127.5 - 1, 100, 100),
        (100.6 / 127.5 - 1, 101, 100),
    ],
)
def test_rules(value, round, trunc) -> None:
    assert uint8_rule("round")(one(value)).item() == round
    assert uint8_rule("trunc")(one(value)).item() == trunc
    assert uint8_rule("round")(one(value)).dtype == torch.uint8


def test_unknown_rule() -> None:
    with pytest.raises(ValueError, match=r"'nearest'; choose from \['round', 'trunc'\]"):
        uint8_rule("nearest")


def test_stored_bytes_are_not_changed_by_a_detour() -> None:
    every = torch.arange(256).to(torch.uint8).reshape(1, 1, 16, 16)
    dataset = ArrayDataset(every)
    assert torch.equal(pixels_of(dataset, torch.tensor([0])), every)
    # The reason: float32 images of bytes, truncated, are not always those bytes.
    assert not torch.equal(uint8_rule("trunc")(dataset.images([0])), every)


def test_seventeen_levels_are_spread_over_256() -> None:
    dataset = data.open("digits")
    indices = torch.arange(20)
    found = pixels_of(dataset, indices)
    assert found.max() == 255 and found.min() == 0
    expected = (dataset.pixels(indices).double() * 255 / 16).round()
    assert torch.equal(found.double(), expected)


def test_grey_is_repeated_and_others_refused() -> None:
    grey = torch.arange(4, dtype=torch.uint8).reshape(1, 1, 2, 2)
    assert torch.equal(coloured(grey), torch.cat([grey] * 3, 1))
    with pytest.raises(ValueError, match=r"\(1, 2, 2, 2\)"):
        coloured(torch.zeros(1, 2, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="float32"):
        coloured(torch.zeros(1, 3, 2, 2))


def test_resized_is_bilinear() -> None:
    ramp = torch.tensor([0, 100], dtype=torch.uint8).expand(1, 3, 2, 2)
    assert resized(ramp, 4)[0, 0, 0].tolist() == [0, 25, 75, 100]
