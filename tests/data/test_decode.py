"""Image files: what is read, what is refused, and how sizes change."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ctm_fast.data import decode
from ctm_fast.data.decode import decoded, image_shape

from .image_files import chw, encoded, pixels


def read(data: bytes, shape, size=None):
    return decoded(io.BytesIO(data), "a.png", shape, size)


@pytest.mark.parametrize("kind", ["png", "bmp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_kinds_are_exact(kind, channels):
    array = pixels(0, 5, 7, channels)
    data = encoded(array, kind)
    assert image_shape(io.BytesIO(data), "a") == (channels, 5, 7)
    assert np.array_equal(read(data, (channels, 5, 7)), chw(array))


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_lossy_kinds_are_close(kind):
    array = np.full((16, 16, 3), 100, np.uint8)
    assert np.abs(read(encoded(array, kind), (3, 16, 16)).astype(int) - 100).max() <= 3


def test_grey_files_fit_a_colour_set_but_not_the_other_way_round():
    grey, colour = pixels(0, channels=1), pixels(1)
    assert np.array_equal(read(encoded(grey), (3, 6, 6)), np.stack([grey] * 3))
    with pytest.raises(ValueError, match=r"a.png has colour"):
        read(encoded(colour), (1, 6, 6))


def test_crop_is_centred_and_exact_without_a_resize():
    array = pixels(0, 6, 10)
    assert np.array_equal(read(encoded(array), (3, 6, 6), 6), chw(array[:, 2:8]))


def test_shrinking_is_a_box_average():
    array = pixels(0, 8, 12)
    blocks = array[:, 2:10].reshape(4, 2, 4, 2, 3).mean((1, 3))
    assert np.abs(read(encoded(array), (3, 4, 4), 4) - chw(blocks)).max() <= 1.01


def test_growing_keeps_a_constant():
    array = np.full((4, 6, 3), 77, np.uint8)
    grown = read(encoded(array), (3, 9, 9), 9)
    assert grown.shape == (3, 9, 9) and (grown == 77).all()


def test_transparency():
    opaque = np.dstack([pixels(0), np.full((6, 6), 255, np.uint8)])
    assert np.array_equal(read(encoded(opaque), (3, 6, 6)), chw(pixels(0)))
    opaque[0, 0, 3] = 254
    with pytest.raises(ValueError, match=r"a.png is partly transparent"):
        read(encoded(opaque), (3, 6, 6))


def test_other_size_is_named():
    with pytest.raises(ValueError, match=r"a.png is 7x5, the data set 6x6.*size="):
        read(encoded(pixels(0, 5, 7)), (3, 6, 6))


@pytest.mark.parametrize("data", [b"", b"no image", encoded(pixels(0))[:20]])
def test_unreadable(data):
    with pytest.raises(ValueError, match=r"a.png is not a readable png, jpg, webp or bmp"):
        read(data, (3, 6, 6))


def test_truncated_pixels():
    data = encoded(pixels(0, 64, 64))
    with pytest.raises(ValueError, match=r"a.png cannot be decoded"):
        read(data[: len(data) // 2], (3, 64, 64))


def test_other_formats_are_refused():
    with pytest.raises(ValueError, match="not a readable png"):
        read(encoded(pixels(0), "gif"), (3, 6, 6))


def test_sixteen_bit_images_are_refused():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((6, 6), np.uint16)).save(buffer, "png")
    with pytest.raises(ValueError, match="pixel mode I;16"):
        read(buffer.getvalue(), (1, 6, 6))


def test_pixel_limit(monkeypatch):
    monkeypatch.setattr(decode, "MAX_PIXELS", 35)
    with pytest.raises(ValueError, match="6x6 pixels, allowed are 35 in all"):
        read(encoded(pixels(0)), (3, 6, 6))


def test_decompression_bomb_is_not_decoded(monkeypatch):
    def fail(*arguments):
        raise AssertionError("decoded")

    data = encoded(np.zeros((9000, 9000), np.uint8))
    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(ValueError, match="9000x9000 pixels"):
        read(data, (1, 9000, 9000))
