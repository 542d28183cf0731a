"""Grids: every image where it belongs, every pixel enlarged exactly, gaps transparent."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from ctm_fast.evaluation import class_ordered, displayed, grid_png
from ctm_fast.evaluation.pictures import GAP, png_uri


@pytest.mark.parametrize("channels", [1, 3])
def test_layout_and_pixels(tmp_path, channels):
    levels = torch.arange(5 * channels * 4).view(5, channels, 2, 2)
    path = grid_png(levels / 127.5 - 1, tmp_path / "new" / "grid.png", ncol=3, scale=4)
    picture = np.asarray(Image.open(path))
    assert picture.shape == (2 * 8 + GAP, 3 * 8 + 2 * GAP, channels + 1)
    for index in range(5):
        top, left = index // 3 * (8 + GAP), index % 3 * (8 + GAP)
        tile = picture[top : top + 8, left : left + 8]
        assert (tile[..., channels] == 255).all()
        expected = np.kron(levels[index].permute(1, 2, 0).numpy(), np.ones((4, 4, 1)))
        assert np.array_equal(tile[..., :channels], expected)
    assert (picture[8 : 8 + GAP, :, channels] == 0).all()
    assert (picture[8 + GAP :, 2 * (8 + GAP) :, channels] == 0).all()


def test_one_row_is_as_wide_as_its_images(tmp_path):
    path = grid_png(torch.zeros(2, 1, 8, 8), tmp_path / "grid.png", ncol=10)
    assert Image.open(path).size == (2 * 48 + GAP, 48)


def test_uri_is_the_same_picture(tmp_path):
    images = torch.linspace(-1, 1, 128).view(2, 1, 8, 8)
    head, _, body = png_uri(images, 2, 1).partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body) == grid_png(images, tmp_path / "a.png", 2, 1).read_bytes()
    assert Image.open(io.BytesIO(base64.b64decode(body))).size == (16 + GAP, 8)


def test_class_ordered():
    labels = torch.tensor([2, 0, 2, 0, 0, 2, 1, 1])
    images = torch.arange(8.0).view(8, 1, 1, 1)
    assert class_ordered(images, labels, 2).flatten().tolist() == [1, 3, 6, 7, 0, 2]
    assert len(class_ordered(images, labels, 5)) == 6


def test_displayed_has_the_spread_of_the_data():
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(0)).view(1000, 1, 2, 2)
    x = noise * math.hypot(0.75, 80)
    assert float(displayed(x, 80.0, 0.75).std()) == pytest.approx(0.75, rel=0.05)
    assert torch.equal(displayed(noise, 0.0, 0.75), noise)


@pytest.mark.parametrize(
    ("shape", "ncol", "scale", "message"),
    [
        ((2, 2, 4, 4), 1, 1, "1 or 3"),
        ((0, 1, 4, 4), 1, 1, "N >= 1"),
        ((1, 4, 4), 1, 1, "1 or 3"),
        ((2, 1, 4, 4), 0, 1, "ncol and scale must be at least 1, got 0 and 1"),
    ],
)
def test_wrong_use(tmp_path, shape, ncol, scale, message):
    with pytest.raises(ValueError, match=message):
        grid_png(torch.zeros(shape), tmp_path / "a.png", ncol, scale)
