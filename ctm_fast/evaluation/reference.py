"""What samples are compared with: statistics of real images, in our, EDM's and ADM's files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arrays import array_names, read_arrays, write_arrays
from .weights import file_sha256

CARD = "ctm_fast_card"  # name of the JSON text in our files
_TOLERANCE = 1e-4  # how far a covariance may be from symmetric, relative to its largest entry


@dataclass(frozen=True)
class Reference:
    """Statistics of real images.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, a covariance that is
            not symmetric or has a negative diagonal, or for nothing to compare with.
    """

    mean: Tensor | None = None  # (D,) float64
    covariance: Tensor | None = None  # (D, D) float64, unbiased
    features: Tensor | None = None  # (N, D), for KID, precision and recall
    pixels: np.ndarray | None = None  # (N, H, W, C) uint8, of which features can be made
    card: dict[str, Any] = field(default_factory=dict)  # where it comes from, JSON types

    def __post_init__(self) -> None:
        name = self.card.get("file", "the reference")
        if (self.mean is None) != (self.covariance is None):
            raise ValueError(f"{name} has only one of mu and sigma")
        if self.mean is None and self.features is None and self.pixels is None:
            raise ValueError(f"{name} has neither mu and sigma, nor features, nor images")
        if self.mean is not None and self.covariance is not None:
            _check_moments(self.mean, self.covariance, name)
        if self.features is not None:
            if self.features.ndim != 2 or len(self.features) < 2:
                raise ValueError(f"{name}: features {tuple(self.features.shape)}; need (N, D)")
            if not bool(self.features.isfinite().all()):
                raise ValueError(f"{name}: the features are not finite")
        if self.pixels is not None and (self.pixels.dtype != np.uint8 or self.pixels.ndim != 4):
            raise ValueError(
                f"{name}: images {self.pixels.shape} {self.pixels.dtype}; need (N, H, W, C) uint8"
            )

    def check_extractor(self, described: dict[str, Any], width: int) -> None:
        """Make sure that an extractor is the one of the stored statistics, as far as they tell.

        Args:
            described: `Extractor.described()`.
            width: number of its features.

        Raises:
            ValueError: for another width, or another SHA-256 or resize rule than the file states.
        """
        name = self.card.get("file", "the reference")
        for what, value in (("mu", self.mean), ("features", self.features)):
            if value is not None and value.shape[-1] != width:
                raise ValueError(
                    f"{name} has {what} of width {value.shape[-1]}; the extractor "
                    f"{described['name']!r} gives {width}: they do not belong together"
                )
        made = self.card.get("extractor")
        if isinstance(made, dict):
            for key in ("sha256", "resize"):
                if made.get(key) != described[key]:
                    raise ValueError(
                        f"{name} was made with an extractor of {key} {made.get(key)}, this one "
                        f"has {described[key]}: the numbers would mean nothing"
                    )


def read_reference(path: str | Path) -> Reference:
    """Statistics of an .npz file of ours, of EDM or of ADM.

    EDM's hold mu and sigma; ADM's those, mu_s and sigma_s of another layer, and images arr_0. Of
    ADM's, mu and sigma are used for the Frechet distance, though they are of more images than the
    file holds; its images are used where features are needed.

    Raises:
        ValueError: for a missing or damaged file, pickled arrays, or arrays of other shapes.

    Source: NVlabs/edm, fid.py; openai/guided-diffusion, evaluations/evaluator.py.
    """
    path = Path(path)
    names = array_names(path)
    found = read_arrays(path, ("mu", "sigma", "features", "arr_0", CARD))
    card: dict[str, Any] = {"extractor": "not stated in the file"}
    if CARD in found:
        card = _card(str(found[CARD]), path)
        kind = "ctm_fast"
    else:
        kind = "adm" if {"mu_s", "sigma_s", "arr_0"} & set(names) else "edm"
    card |= {"file": path.name, "format": kind, "file_sha256": file_sha256(path)}
    if "mu" not in found and "arr_0" not in found and "features" not in found:
        raise ValueError(
            f"{path} holds {list(names)}; a reference holds mu and sigma (EDM), with mu_s, sigma_s "
            "or arr_0 (ADM), or is written by --reference-out"
        )
    pixels = found.get("arr_0")
    if pixels is not None:
        card["stored_images"] = len(pixels)
    return Reference(
        _floats(found.get("mu"), path),
        _floats(found.get("sigma"), path),
        _floats(found.get("features"), path, keep=True),
        pixels,
        card,
    )


def write_reference(path: str | Path, reference: Reference) -> Path:
    """Write statistics as an .npz file without pickles, which EDM's fid.py also reads.

    Arrays: mu, sigma, features if there are any, and the card as JSON text.

    Raises:
        ValueError: for a reference without mean, or another ending than .npz.
    """
    if reference.mean is None or reference.covariance is None:
        raise ValueError("a reference file needs mean and covariance")
    arrays: dict[str, Any] = {
        "mu": reference.mean.cpu().numpy(),
        "sigma": reference.covariance.cpu().numpy(),
        CARD: np.array(json.dumps(reference.card, allow_nan=False)),
    }
    if reference.features is not None:
        arrays["features"] = reference.features.cpu().numpy()
    return write_arrays(Path(path), arrays)


def _check_moments(mean: Tensor, covariance: Tensor, name: str) -> None:
    width = mean.numel()
    if mean.ndim != 1 or tuple(covariance.shape) != (width, width) or width == 0:
        raise ValueError(
            f"{name}: mu {tuple(mean.shape)} and sigma {tuple(covariance.shape)}; need (D,) and "
            "(D, D)"
        )
    if not bool(mean.isfinite().all()) or not bool(covariance.isfinite().all()):
        raise ValueError(f"{name}: mu or sigma is not finite")
    largest = float(covariance.abs().max())
    if float((covariance - covariance.T).abs().max()) > _TOLERANCE * largest:
        raise ValueError(f"{name}: sigma is not symmetric, so it is no covariance")
    if float(covariance.diagonal().min()) < 0:
        raise ValueError(f"{name}: sigma has a negative variance")


def _floats(array: np.ndarray | None, path: Path, keep: bool = False) -> Tensor | None:
    if array is None:
        return None
    if array.dtype.kind != "f":
        raise ValueError(f"{path}: an array of dtype {array.dtype} where real numbers belong")
    return torch.from_numpy(np.ascontiguousarray(array if keep else array.astype(np.float64)))


def _card(text: str, path: Path) -> dict[str, Any]:
    try:
        card = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its card is not JSON: {error}") from None
    if not isinstance(card, dict):
        raise ValueError(f"{path}: its card is not a JSON object")
    return card
