"""The two resize rules against numbers worked out by hand and against Pillow step by step."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ctm_fast.data import resize
from ctm_fast.data.resize import RULES, adm, check_resize, crop_then_resize

from .image_files import pixels


def image(array):
    return Image.fromarray(array)


def values(picture):
    return np.asarray(picture).astype(int)


def halved(array):
    """Averages of pairs of columns, then of rows, each rounded half up as Pillow does."""
    array = array[: array.shape[0] // 2 * 2, : array.shape[1] // 2 * 2].astype(int)
    array = (array[:, ::2] + array[:, 1::2] + 1) // 2
    return (array[::2] + array[1::2] + 1) // 2


def test_adm_halves_by_box_averages():
    # 4x8 with size 2: one halving gives 2x4, whose shorter side is the size; columns 1 and 2 stay.
    array = np.arange(32, dtype=np.uint8).reshape(4, 8) * 4
    assert values(adm(image(array), 2)).tolist() == [[26, 34], [90, 98]]


def test_adm_halves_as_often_as_it_can():
    array = pixels(0, 16, 32)
    expected = halved(halved(halved(array)))[:, 1:3]
    assert np.array_equal(values(adm(image(array), 2)), expected)


@pytest.mark.parametrize(
    ("width", "height", "size", "steps", "between", "box"),
    [
        # 500x375 to 64: 250x187, 125x93 (93 < 128), scale 64 / 93: 86.02 x 64, crop from 11.
        (500, 375, 64, [(250, 187), (125, 93)], (86, 64), (11, 0, 75, 64)),
        # 333x500: 166x250, 83x125, scale 64 / 83: 64 x 96.39, crop from 16.
        (333, 500, 64, [(166, 250), (83, 125)], (64, 96), (0, 16, 64, 80)),
        # 128x128: one halving brings it to the size; the bicubic step does nothing.
        (128, 128, 64, [(64, 64)], (64, 64), (0, 0, 64, 64)),
        # 127x150: no halving below 2 * 64; scale 64 / 127: 64 x 75.59.
        (127, 150, 64, [], (64, 76), (0, 6, 64, 70)),
        # 20x10 grows: scale 6.4: 128 x 64.
        (20, 10, 64, [], (128, 64), (32, 0, 96, 64)),
    ],
)
def test_adm_is_these_steps_of_pillow(width, height, size, steps, between, box):
    picture = image(pixels(width, height, width))
    expected = picture
    for step in steps:
        expected = expected.resize(step, Image.Resampling.BOX)
    expected = expected.resize(between, Image.Resampling.BICUBIC).crop(box)
    found = adm(picture, size)
    assert found.size == (size, size)
    assert np.array_equal(values(found), values(expected))


def test_the_rules_differ_as_documented():
    # Six rows: the square is columns 3 to 8; averages of pairs begin at column 3, not at 2.
    array = np.zeros((6, 12), np.uint8)
    array[:, 3] = 200
    assert values(crop_then_resize(image(array), 3)).tolist() == [[100, 0, 0]] * 3
    # Halved to 3x6 first, then columns 1 to 3 of these.
    assert values(adm(image(array), 3)).tolist() == [[100, 0, 0]] * 3
    array = np.roll(array, -1, 1)
    assert values(crop_then_resize(image(array), 3)).tolist() == [[0, 0, 0]] * 3
    assert values(adm(image(array), 3)).tolist() == [[100, 0, 0]] * 3


def test_adm_keeps_a_constant_and_every_odd_size():
    for width in range(1, 40, 7):
        for height in range(1, 40, 5):
            for size in (1, 3, 8):
                found = adm(image(np.full((height, width, 3), 77, np.uint8)), size)
                assert found.size == (size, size) and (values(found) == 77).all()


def test_a_thin_image_does_not_grow_without_limit():
    thin = image(np.zeros((1, 2**16), np.uint8))
    with pytest.raises(ValueError, match="65536x1 pixels become 4194304x64, allowed are 67108864"):
        adm(thin, 64)
    assert crop_then_resize(thin, 64).size == (64, 64)


def test_options():
    assert set(RULES) == {"crop", "adm"}
    for size, rule in ((None, "crop"), (4, "crop"), (4, "adm")):
        check_resize(size, rule)
    for size, rule, message in [
        (0, "crop", "size must be at least 1, got 0"),
        (4, "lanczos", r"unknown resize 'lanczos'; allowed are \['adm', 'crop'\]"),
        (None, "adm", "resize='adm' needs size="),
    ]:
        with pytest.raises(ValueError, match=message):
            check_resize(size, rule)
    assert resize.MAX_RESIZED == 2**26
