"""Augmentation: labels say what was done, and nothing else is done."""

import math

import pytest
import torch

from ctm_fast.data.augment import LABELS, SHIFT, Augmentation, augmented, drawn
from ctm_fast.rng import stream


def none(batch: int, **changes: torch.Tensor) -> Augmentation:
    zero, off = torch.zeros(batch), torch.zeros(batch, dtype=torch.bool)
    plain = Augmentation(off, off, zero, zero, zero, zero, torch.zeros(batch, 2))
    return plain._replace(**changes)


def pictures(batch: int = 3, size: int = 8) -> torch.Tensor:
    return torch.rand(batch, 2, size, size, generator=stream(3)) * 2 - 1


def test_zero_labels_are_the_identity() -> None:
    images = pictures()
    how = drawn(3, 0.0, stream(0))
    assert torch.equal(how.labels, torch.zeros(3, LABELS))
    assert torch.equal(augmented(images, how), images)


def test_flips_are_exact_and_told() -> None:
    images, yes = pictures(), torch.ones(3, dtype=torch.bool)
    how = none(3, xflip=yes)
    assert torch.equal(augmented(images, how), images.flip(3))
    assert how.labels[0].tolist() == [1, *[0] * 8]
    assert torch.equal(augmented(images, none(3, yflip=yes)), images.flip(2))


def test_a_whole_translation_moves_pixels_and_back() -> None:
    images = pictures(size=8)
    right = torch.tensor([[1 / (8 * SHIFT), 0.0]]).expand(3, 2)
    how = none(3, shift=right)
    moved = augmented(images, how)
    torch.testing.assert_close(moved[..., 1:], images[..., :-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[..., 0], images[..., 0], atol=1e-5, rtol=0)
    back = augmented(moved, none(3, shift=-right))
    torch.testing.assert_close(back[..., :-1], images[..., :-1], atol=1e-5, rtol=0)
    assert torch.equal(how.labels[:, 7:], right)
    down = augmented(images, none(3, shift=right.flip(1)))
    torch.testing.assert_close(down[..., 1:, :], images[..., :-1, :], atol=1e-5, rtol=0)


def test_a_quarter_turn() -> None:
    images = pictures()
    how = none(3, angle=torch.full((3,), math.pi / 2))
    torch.testing.assert_close(augmented(images, how), images.rot90(-1, (2, 3)), atol=1e-5, rtol=0)
    expected = torch.tensor([-1.0, 1.0]).expand(3, 2)
    torch.testing.assert_close(how.labels[:, 3:5], expected, atol=1e-6, rtol=0)


def test_twice_the_size_shows_the_middle() -> None:
    ramp = torch.linspace(-1, 1, 16).expand(1, 1, 16, 16)
    larger = augmented(ramp, none(1, scale=torch.tensor([5.0])))  # 2 ** (0.2 * 5)
    torch.testing.assert_close(larger, ramp / 2, atol=1e-5, rtol=0)
    wide = augmented(ramp, none(1, stretch=torch.tensor([5.0])))
    torch.testing.assert_close(wide, ramp / 2, atol=1e-5, rtol=0)
    upright = none(1, stretch=torch.tensor([5.0]), axis=torch.tensor([math.pi / 2]))
    narrow = augmented(ramp, upright)[..., 8:]
    torch.testing.assert_close(narrow[..., 0, 0:2], 2 * ramp[..., 0, 8:10], atol=1e-4, rtol=0)
    labels = upright.labels[0]
    torch.testing.assert_close(labels[5:7], torch.tensor([0.0, 5.0]), atol=1e-5, rtol=0)


def test_how_often() -> None:
    how = drawn(40_000, 0.12, stream(1))
    share = (how.labels != 0).float().mean(0)
    assert float(share[0]) == pytest.approx(0.5, abs=0.01)
    assert float(share[1]) == pytest.approx(0.06, abs=0.01)
    for label in (2, 3, 4, 5, 7, 8):
        assert float(share[label]) == pytest.approx(0.12, abs=0.01), label
    assert float(share[6]) == pytest.approx(0.06, abs=0.01)
    chosen = how.scale[how.scale != 0]
    assert float(chosen.std()) == pytest.approx(1, abs=0.05)


def test_images_do_not_depend_on_their_batch() -> None:
    images, how = pictures(6), drawn(6, 0.9, stream(2))
    whole = augmented(images, how)
    parts = [augmented(images[i : i + 2], how.rows(i, i + 2)) for i in (0, 2, 4)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-6, rtol=0)
