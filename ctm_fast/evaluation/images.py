"""Where evaluated images come from: a sampler with one seed per image, or stored images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ctm_fast.data.dataset import ImageDataset
from ctm_fast.rng import stream_seed
from ctm_fast.sampler import Sampler

from .pixels import pixels_of, uint8_rule

LABELS = ("uniform", "balanced")

# Of a sampler, for the card where they are set; the rest of what matters has its own entry there.
OPTIONS = (
    *("S_churn", "S_min", "S_max", "S_noise", "eta", "renoise", "rho", "edges", "landings"),
    *("corrector_steps", "snr"),
)

_LABEL = 0x6C6162656C  # keeps these streams apart from others with the same seed


class Images(Protocol):
    """Images that are numbered; any of them can be had at any time, on any process."""

    def __len__(self) -> int: ...

    def pixels(self, start: int, stop: int) -> Tensor:
        """Images start, ..., stop - 1: (b, C, H, W) uint8."""
        ...

    def described(self) -> dict[str, Any]:
        """samples, seeds, labels, uint8, nfe and sampler for the card; None where unknown."""
        ...


@dataclass(frozen=True)
class SampledImages:
    """Image k of a model is made from the seed first_seed + k alone, whoever makes it.

    Raises:
        ValueError: for fewer than one image, a negative seed, an unknown rule for bytes or labels.
    """

    sampler: Sampler
    num: int = 50_000  # images
    first_seed: int = 0  # seed of the first; EDM's practice is 0, 50000 and 100000
    uint8: str = "round"  # round | trunc, see `pixels.UINT8_RULES`
    labels: str = "uniform"  # classes: drawn uniformly from the image's seed | balanced, in turn

    def __post_init__(self) -> None:
        if self.num < 1 or self.first_seed < 0:
            raise ValueError(f"num={self.num}, first_seed={self.first_seed}; need at least 1 and 0")
        if self.labels not in LABELS:
            raise ValueError(f"unknown labels {self.labels!r}; choose from {list(LABELS)}")
        uint8_rule(self.uint8)

    def __len__(self) -> int:
        return self.num

    def pixels(self, start: int, stop: int) -> Tensor:
        """Images start, ..., stop - 1: (b, C, H, W) uint8.

        Raises:
            ValueError: if one of them is not finite.
        """
        seeds = range(self.first_seed + start, self.first_seed + stop)
        images = self.sampler(len(seeds), labels=self.classes(start, stop), seed=seeds)
        if not bool(images.isfinite().all()):
            raise ValueError(f"images of the seeds {seeds[0]} to {seeds[-1]} are not all finite")
        return uint8_rule(self.uint8)(images)

    def classes(self, start: int, stop: int) -> Tensor | None:
        """Classes of images start, ..., stop - 1, (b,) int64; None for an unconditional model."""
        number = self.sampler.model.label_dim
        if not number:
            return None
        if self.labels == "balanced":
            return torch.arange(start, stop) % number
        first = self.first_seed
        drawn = [stream_seed(k, _LABEL) % number for k in range(first + start, first + stop)]
        return torch.tensor(drawn)

    def described(self) -> dict[str, Any]:
        s = self.sampler
        return {
            "samples": self.num,
            "seeds": f"{self.first_seed}-{self.first_seed + self.num - 1}",
            "labels": self.labels if s.model.label_dim else "none",
            "uint8": self.uint8,
            "nfe": s.nfe,
            "sampler": {
                "kind": s.model.kind,
                "model": getattr(s.model, "taken", "") or None,
                "method": s.method,
                "steps": s.steps,
                "gamma": s.gamma,
                "sigmas": [float(sigma) for sigma in s.sigmas],
                "options": {
                    name: getattr(s, name) for name in OPTIONS if getattr(s, name) is not None
                },
                "clip": s.clip,
                "dtype": None if s.dtype is None else str(s.dtype).removeprefix("torch."),
                "batch_size": s.batch_size,
            },
        }


@dataclass(frozen=True)
class StoredImages:
    """The first `num` images of a data set, as they are.

    Raises:
        ValueError: for fewer than one image or more than there are.
    """

    dataset: ImageDataset
    num: int | None = None  # all if not given

    def __post_init__(self) -> None:
        if self.num is not None and not 1 <= self.num <= len(self.dataset):
            raise ValueError(
                f"{self.num} images of {self.dataset.name!r}; allowed are 1 to {len(self.dataset)}"
            )

    def __len__(self) -> int:
        return len(self.dataset) if self.num is None else self.num

    def pixels(self, start: int, stop: int) -> Tensor:
        """Images start, ..., stop - 1: (b, C, H, W) uint8."""
        return pixels_of(self.dataset, torch.arange(start, stop))

    def described(self) -> dict[str, Any]:
        levels = self.dataset.white + 1
        rule = "as stored" if levels == 256 else f"{levels} levels spread over 256, rounded"
        return {
            "samples": len(self),
            "seeds": None,
            "labels": None,
            "uint8": rule,
            "nfe": None,
            "sampler": None,
            "data": self.dataset.name,
            "data_details": self.dataset.details() or None,
        }
