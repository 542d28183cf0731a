"""Crops of free photos that scikit-learn and scikit-image bundle; nothing is downloaded."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .dataset import ImageDataset
from .decode import decoded, image_shape


class Photo(NamedTuple):
    """One bundled photo."""

    package: str  # import name of the package that has it
    path: str  # below the package's folder
    licence: str  # as stated by the package


_CC_BY = "CC BY 2.0"
PHOTOS = {
    "china": Photo("sklearn", "datasets/images/china.jpg", f"{_CC_BY}, danielbuechele"),
    "flower": Photo("sklearn", "datasets/images/flower.jpg", f"{_CC_BY}, vultilion"),
    "astronaut": Photo("skimage", "data/astronaut.png", "public domain, NASA"),
    "chelsea": Photo("skimage", "data/chelsea.png", "CC0, Stefan van der Walt"),
    "coffee": Photo("skimage", "data/coffee.png", "CC0, Rachel Michetti"),
    "rocket": Photo("skimage", "data/rocket.jpg", "public domain, SpaceX"),
}
_PROJECTS = {"sklearn": "scikit-learn", "skimage": "scikit-image"}


class PhotoPatches(ImageDataset):
    """Overlapping square RGB crops of a few photos, without classes.

    Real images for exercising the RGB path; a handful of photos is not a benchmark data set.

    Args:
        size: side of a crop in pixels.
        stride: distance of neighbouring crops in pixels.
        photos: names out of `PHOTOS`, or one text with commas between them; None takes every one
            that is installed, and `info()` tells which these are.

    Raises:
        ImportError: if no photo, or not a requested one, is installed.
        ValueError: for an unknown photo, no photo, or a size or stride that does not fit.
    """

    def __init__(
        self, size: int = 32, stride: int = 8, photos: Sequence[str] | None = None
    ) -> None:
        if size < 1 or stride < 1:
            raise ValueError(f"size and stride must be at least 1, got {size} and {stride}")
        super().__init__("photo-patches", (3, size, size))
        self.size, self.stride = size, stride
        self.photos = _installed(photos)
        self._pictures = [_picture(name) for name in self.photos]
        for name, picture in zip(self.photos, self._pictures, strict=True):
            if min(picture.shape[1:]) < size:
                height, width = picture.shape[1:]
                raise ValueError(f"size={size} does not fit into {name!r}, {width}x{height} pixels")
        self._ends = list(accumulate(self._rows(p) * self._columns(p) for p in self._pictures))

    def __len__(self) -> int:
        return self._ends[-1]

    def pixels(self, indices: Tensor) -> Tensor:
        return torch.stack([self._crop(index) for index in indices.tolist()])

    def details(self) -> dict[str, Any]:
        photos = {name: PHOTOS[name].licence for name in self.photos}
        return {"stride": self.stride, "photos": photos}

    def _rows(self, picture: Tensor) -> int:
        return (picture.shape[1] - self.size) // self.stride + 1

    def _columns(self, picture: Tensor) -> int:
        return (picture.shape[2] - self.size) // self.stride + 1

    def _crop(self, index: int) -> Tensor:
        number = bisect.bisect_right(self._ends, index)
        picture = self._pictures[number]
        row, column = divmod(
            index - (self._ends[number - 1] if number else 0), self._columns(picture)
        )
        top, left = row * self.stride, column * self.stride
        return picture[:, top : top + self.size, left : left + self.size]


def _installed(photos: Sequence[str] | None) -> tuple[str, ...]:
    if photos is None:
        found = tuple(name for name in PHOTOS if _photo_path(name) is not None)
        if not found:
            raise ImportError(
                "photo-patches needs the photos that come with scikit-learn: "
                'pip install "ctm_fast[report]" (scikit-image adds more)'
            )
        return found
    if isinstance(photos, str):
        photos = photos.split(",")
    if not photos or set(photos) - set(PHOTOS):
        raise ValueError(f"unknown photos {tuple(photos)}; choose from {tuple(PHOTOS)}")
    for name in photos:
        if _photo_path(name) is None:
            project = _PROJECTS[PHOTOS[name].package]
            raise ImportError(f"photo {name!r} comes with {project}: pip install {project}")
    return tuple(photos)


def _photo_path(name: str) -> Path | None:
    # The files are read without importing the packages, which would take seconds.
    spec = find_spec(PHOTOS[name].package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, PHOTOS[name].path)
        if path.is_file():
            return path
    return None


def _picture(name: str) -> Tensor:
    path = _photo_path(name)
    assert path is not None
    return torch.from_numpy(decoded(path, name, (3, *image_shape(path, name)[1:])))
