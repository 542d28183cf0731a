"""Crops of the bundled photos, with whatever packages are installed."""

from __future__ import annotations

import socket

import pytest
import torch

from ctm_fast import data
from ctm_fast.data import photo_patches
from ctm_fast.data.photo_patches import PHOTOS, PhotoPatches


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Two small stand-ins for the bundled photos."""
    from PIL import Image

    paths = {}
    for name, (width, height) in {"china": (40, 34), "coffee": (33, 48)}.items():
        column = torch.arange(width).repeat(height, 1)
        row = torch.arange(height).view(-1, 1).expand(-1, width)
        picture = torch.stack([row, column, torch.full_like(row, len(paths))], -1)
        paths[name] = tmp_path / f"{name}.png"
        Image.fromarray(picture.byte().numpy()).save(paths[name])
    monkeypatch.setattr(photo_patches, "_photo_path", paths.get)
    return paths


def test_every_crop_is_where_it_should_be(photos):
    patches = PhotoPatches(size=32, stride=2)
    # china: 2 x 5 crops, coffee: 9 x 1
    assert patches.photos == ("china", "coffee") and len(patches) == 10 + 9
    pixels = patches.pixels(torch.arange(19))
    corners = [tuple(map(int, image[:, 0, 0])) for image in pixels]
    china = [(row, column, 0) for row in (0, 2) for column in (0, 2, 4, 6, 8)]
    coffee = [(row, 0, 1) for row in range(0, 18, 2)]
    assert corners == china + coffee
    assert pixels.shape == (19, 3, 32, 32)
    assert int(pixels[9, 0, 31, 0]) == 33 and int(pixels[9, 1, 0, 31]) == 39


def test_info_names_photos_and_licences(photos):
    info = data.open("photo-patches").info()
    assert info["photos"] == {name: PHOTOS[name].licence for name in ("china", "coffee")}
    assert info["classes"] == 0 and info["stride"] == 8


def test_without_any_package(monkeypatch):
    monkeypatch.setattr(photo_patches, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"ctm_fast\[report\]"):
        PhotoPatches()
    with pytest.raises(ImportError, match="pip install scikit-image"):
        PhotoPatches(photos=["astronaut"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"photos": ["lena"]}, r"unknown photos \('lena',\); choose from \('china'"),
        ({"photos": []}, "unknown photos"),
        ({"size": 0}, "size and stride must be at least 1"),
        ({"size": 35}, "size=35 does not fit into 'china', 40x34 pixels"),
    ],
)
def test_wrong_options(photos, options, message):
    with pytest.raises(ValueError, match=message):
        PhotoPatches(**options)


def test_the_real_photos_without_a_network(monkeypatch):
    pytest.importorskip("sklearn", reason="the photos come with scikit-learn")

    def refuse(*arguments, **options):
        raise AssertionError("a data set must not use the network")

    monkeypatch.setattr(socket, "socket", refuse)
    patches = data.open("photo-patches", photos=["china", "flower"])
    assert len(patches) == 2 * 3850 and patches.shape == (3, 32, 32)
    assert 0.3 < patches.sigma_data < 0.8
    images = patches.images([0, 3849, 3850, 7699])
    assert images.shape == (4, 3, 32, 32) and float(images.std()) > 0.05
