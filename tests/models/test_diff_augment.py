"""DiffAugment against a plain loop over pixels; gradients, bounds, identity, splits."""

import math

import pytest
import torch

from ctm_fast.models.diff_augment import DRAWS, DiffAugment, pixels
from ctm_fast.rng import stream

NEUTRAL = (0.5, 0.5, 0.5, 0.5, 0.5)
MOVES_ONLY = DiffAugment(0, 0, 0, 0.125, 0)
HOLES_ONLY = DiffAugment(0, 0, 0, 0, 0.2)


def images(batch=4, channels=3, height=8, width=8, dtype=torch.float64) -> torch.Tensor:
    shape = (batch, channels, height, width)
    return torch.randn(shape, generator=stream(1), dtype=dtype)


def numbers(batch=4, seed=2) -> torch.Tensor:
    return torch.rand(batch, DRAWS, generator=stream(seed), dtype=torch.float64)


def looped(image: torch.Tensor, row: list[float]) -> torch.Tensor:
    """One image, pixel by pixel, as the paper's code describes it."""
    channels, height, width = image.shape
    image = image + (row[0] - 0.5)
    grey = image.mean(0)
    image = torch.stack([(image[c] - grey) * (2 * row[1]) + grey for c in range(channels)])
    image = (image - image.mean()) * (row[2] + 0.5) + image.mean()
    result = torch.zeros_like(image)
    reach = [math.floor(0.125 * size + 0.5) for size in (height, width)]
    shift = [math.floor(u * (2 * r + 1)) - r for u, r in zip(row[3:5], reach)]
    side = [math.floor(0.2 * size + 0.5) for size in (height, width)]
    centre = [
        math.floor(u * (n + (0 if s % 2 else 1))) for u, n, s in zip(row[5:], (height, width), side)
    ]
    for y in range(height):
        for x in range(width):
            hidden = all(c - s // 2 <= p < c - s // 2 + s for p, c, s in zip((y, x), centre, side))
            if 0 <= y + shift[0] < height and 0 <= x + shift[1] < width and not hidden:
                result[:, y, x] = image[:, y + shift[0], x + shift[1]]
    return result


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 8), (3, 13, 20), (2, 32, 32)])
def test_equals_a_loop_over_pixels(shape) -> None:
    x, u = images(5, *shape), numbers(5)
    expected = torch.stack([looped(a, row) for a, row in zip(x, u.tolist())])
    torch.testing.assert_close(DiffAugment()(x, u), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_gradients(channels) -> None:
    x, u = images(3, channels, 5, 6).requires_grad_(), numbers(3)
    assert torch.autograd.gradcheck(lambda x: DiffAugment()(x, u), x)
    assert torch.autograd.gradgradcheck(lambda x: DiffAugment()(x, u) ** 2, x)


def test_strength_zero_and_the_middle_of_the_ranges_change_nothing() -> None:
    x = images()
    assert torch.equal(DiffAugment(0, 0, 0, 0, 0)(x, numbers()), x)
    middle = torch.tensor([[*NEUTRAL, 0.3, 0.8]] * 4)
    assert torch.equal(DiffAugment(cutout=0)(x, middle), x)
    with_hole = DiffAugment()(x, middle)
    same = (with_hole == x).all(1)
    assert (~same).sum(dim=(1, 2)).tolist() == [4] * 4
    assert (with_hole[~same[:, None].expand_as(x)] == 0).all()


def test_one_channel_has_no_saturation() -> None:
    x = images(channels=1)
    u = torch.full((4, DRAWS), 0.5, dtype=torch.float64)
    u[:, 1] = torch.tensor([0.0, 0.2, 0.7, 0.99])
    assert torch.equal(DiffAugment(cutout=0)(x, u), x)
    assert not torch.equal(DiffAugment(cutout=0)(images(), u), images())


def test_no_saturation_is_grey_and_double_saturation_doubles_the_distance_to_grey() -> None:
    x, u = images(2), torch.full((2, DRAWS), 0.5, dtype=torch.float64)
    u[:, 1] = torch.tensor([0.0, 1.0])
    changed = DiffAugment(cutout=0)(x, u)
    grey = x.mean(1, keepdim=True)
    torch.testing.assert_close(changed[0], grey[0].expand(3, 8, 8))
    torch.testing.assert_close(changed[1], (2 * x - grey)[1])


@pytest.mark.parametrize("size, reach", [(8, 1), (12, 2), (32, 4), (64, 8)])
def test_translation_is_uniform_and_bounded(size, reach) -> None:
    assert pixels(0.125, size) == reach
    places = torch.arange(size, dtype=torch.float64).reshape(1, 1, size, 1) + 1
    count = 2 * reach + 1
    u = torch.full((4 * count, DRAWS), 0.5, dtype=torch.float64)
    u[:, 3] = (torch.arange(4 * count) + 0.5) / (4 * count)
    moved = MOVES_ONLY(places.expand(len(u), 1, size, size), u)[:, 0, :, 0]
    middle = (moved[:, size // 2] - (size // 2 + 1)).long()
    assert torch.bincount(middle + reach).tolist() == [4] * count
    assert [int((row == 0).sum()) for row in moved] == middle.abs().tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_ends_of_the_unit_interval_stay_within_the_bounds(dtype) -> None:
    x = torch.ones(2, 3, 8, 8, dtype=dtype)
    u = torch.tensor([[0.0] * DRAWS, [1 - 2**-24] * DRAWS])
    result = MOVES_ONLY(x, u)
    assert result.dtype == dtype and (result.float().sum((1, 2, 3)) == 3 * 49).all()
    assert DiffAugment()(x, torch.ones(2, DRAWS)).isfinite().all()


@pytest.mark.parametrize("size, side", [(8, 2), (32, 6), (64, 13)])
def test_area_of_the_hole(size, side) -> None:
    count = size + 1 - side % 2
    x = torch.ones(count, 1, size, size)
    u = torch.full((count, DRAWS), 0.5)
    u[:, 5] = (torch.arange(count) + 0.5) / count
    areas = (HOLES_ONLY(x, u) == 0).sum((1, 2, 3))
    assert areas.max() == side**2 and areas[count // 2] == side**2
    # The centre stays in the image, so half the hole does at least.
    assert areas.min() == side * ((side + 1) // 2)
    assert areas.tolist() == areas.flip(0).tolist()


def test_same_numbers_give_the_same_crop_on_real_and_fake() -> None:
    real, fake, u = images() + 9, images(batch=4).flip(0) - 9, numbers()
    augment = DiffAugment()
    assert torch.equal(augment(real, u) == 0, augment(fake, u) == 0)
    marked = torch.arange(64.0).reshape(1, 1, 8, 8).expand(4, 3, -1, -1) + 1
    moved, twice = augment.moved(marked, u[:, 3:]), augment.moved(2 * marked, u[:, 3:])
    assert torch.equal(twice, 2 * moved)
    assert not torch.equal(augment(real, u), augment(real, numbers(seed=3)))


def test_a_split_batch_gives_the_same_images() -> None:
    x, u = images(6, 3, 16, 16, torch.float32), numbers(6)
    whole = DiffAugment()(x, u)
    parts = [DiffAugment()(x[i:j], u[i:j]) for i, j in ((0, 1), (1, 4), (4, 6))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-6, atol=1e-6)
    assert DiffAugment()(x[:0], u[:0]).shape == (0, 3, 16, 16)


def test_layout_and_the_input_are_left_alone() -> None:
    x, u = images(), numbers()
    before = x.clone()
    result = DiffAugment()(x.contiguous(memory_format=torch.channels_last), u)
    torch.testing.assert_close(result, DiffAugment()(x, u))
    assert torch.equal(x, before)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"uniforms must be \(4, 7\), got \(4, 6\)"):
        DiffAugment()(images(), numbers()[:, :6])
    with pytest.raises(ValueError, match=r"uniforms must be \(4, 7\), got \(3, 7\)"):
        DiffAugment()(images(), numbers(3))
    with pytest.raises(ValueError, match="images must be"):
        DiffAugment()(images()[0], numbers())
    with pytest.raises(ValueError, match="images must be"):
        DiffAugment()(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), numbers())
    for field, value in (("brightness", -1), ("contrast", 1.5), ("cutout", float("nan"))):
        with pytest.raises(ValueError, match=f"{field} must be in"):
            DiffAugment(**{field: value})
