"""Classifier rejection sampling: make more images, keep those a classifier is surest of.

Kim et al. 2024 (CTM, arXiv:2310.02279), Section 5.1; Razavi et al. 2019 (arXiv:1906.00446).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..denoiser import per_sample
from ..rng import stream_seed
from ..wrappers.calling import module_of
from ..wrappers.classifier_guided import label_log_prob, logits_of
from .arguments import checked_labels, number_of_images
from .engine import evaluating
from .sampler import Sampler

CHUNK = 256  # images that are made and rated together where the sampler has no batch size
SLACK = 1e-9  # 50 * 1.1 is 55 and a bit


def paper_factor(rate: float) -> float:
    """Candidates per image kept, 1 / (1 - rate). Source: CTM, Section 5.1.

    Raises:
        ValueError: unless 0 <= rate < 1.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate is {rate}; the share of rejected candidates lies in [0, 1)")
    return 1 / (1 - rate)


def official_factor(rate: float) -> float:
    """Candidates per image kept, 1 + rate. Source: sony/ctm, `classifier_rejection.py`.

    Raises:
        ValueError: unless rate >= 0.
    """
    if not 0 <= rate < math.inf:
        raise ValueError(f"rate is {rate}; rejected candidates per image kept are at least 0")
    return 1 + rate


ACCOUNTINGS: dict[str, Callable[[float], float]] = {
    "paper": paper_factor,
    "official": official_factor,
}


@dataclass(frozen=True)
class Selection:
    """Images that were kept, and what is known about them."""

    images: Tensor  # (num, C, H, W), as the sampler makes them
    labels: Tensor  # (num,) int64
    seeds: tuple[int, ...]  # one per image: sampler(labels=..., seed=seeds) makes them again
    log_probs: Tensor  # (num,) float64 log p(label | image), of the classifier
    candidates: int  # how many were made
    nfe: float  # network calls per image kept, rejected ones included


@dataclass(frozen=True)
class RejectionSampler:
    """Images of which a classifier is surest: `RejectionSampler(sampler, classifier)(labels=...)`.

    Of every class as many images are kept as are asked for, exactly. Candidate j of class c has
    the seed `stream_seed(seed, c, j)`, so the candidates of a class depend on the seed alone, not
    on other classes or on batch sizes. The kept ones come in the order of their numbers, not of
    their probabilities: any part of them is as good as any other. Equal probabilities keep the
    lower number.

    Raises:
        ValueError: for an unconditional sampler, a rate out of range or an unknown accounting.

    Source: CTM, Section 5.1, with 50 images of each of 1000 classes; ADM's classifier.
    """

    sampler: Sampler  # of a conditional model, or of one that a classifier guides
    classifier: Any  # classifier(images, sigma) -> logits (batch, classes), see `ClassifierGuided`
    rate: float = 0.2  # "paper": share of rejected candidates; "official": rejected per image kept
    accounting: str = "paper"  # n images of a class need ceil(n / (1 - rate)) | ceil(n (1 + rate))
    sigma: float | None = None  # level the classifier is told; None: the sampler's last above 0

    def __post_init__(self) -> None:
        if self.accounting not in ACCOUNTINGS:
            names = tuple(ACCOUNTINGS)
            raise ValueError(f"accounting is {self.accounting!r}; choose from {names}")
        ACCOUNTINGS[self.accounting](self.rate)
        if int(getattr(self.sampler.model, "label_dim", 0)) == 0:
            raise ValueError("rejection by class needs a sampler of a model that takes labels")
        if not callable(self.classifier):
            raise ValueError(f"the classifier is {self.classifier!r}; it must be callable")
        if self.sigma is None:
            last = float(self.sampler.sigmas[-1]) or float(self.sampler.model.sigma_min)
            object.__setattr__(self, "sigma", last)
        if not 0 <= float(self.sigma or 0) < math.inf:
            raise ValueError(f"sigma is {self.sigma}; it must be at least 0")

    @property
    def nfe(self) -> float:
        """Average network calls per image kept, before rounding to whole candidates."""
        return self.sampler.nfe * ACCOUNTINGS[self.accounting](self.rate)

    def candidates(self, num: int) -> int:
        """How many images are made for `num` of one class."""
        return math.ceil(num * ACCOUNTINGS[self.accounting](self.rate) * (1 - SLACK))

    def __call__(
        self, num: int | None = None, *, labels: Iterable[int] | Tensor | None = None, seed: int = 0
    ) -> Tensor:
        """Images (num, C, H, W); image i is of class labels[i]. Arguments as of `select`."""
        return self.select(num, labels=labels, seed=seed).images

    def select(
        self, num: int | None = None, *, labels: Iterable[int] | Tensor | None = None, seed: int = 0
    ) -> Selection:
        """The images that are kept, with their labels, seeds and log probabilities.

        Args:
            num: how many images; may be left out where labels say it.
            labels: (num,) integers, the class of every image; None: all classes in turn.
            seed: of the run.

        Raises:
            ValueError: for bad labels, a seed that is no integer, logits of another shape than
                (batch, classes), or probabilities that are no numbers.
        """
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ValueError(f"seed is {seed!r}; it must be an integer")
        if labels is not None and not hasattr(labels, "__len__"):
            labels = list(labels)
        count = number_of_images(num, labels, None, None)
        classes = checked_labels(labels, count, int(self.sampler.model.label_dim))
        assert classes is not None
        images: Tensor | None = None
        seeds, made = [0] * count, 0
        log_probs = torch.empty(count, dtype=torch.float64)
        for group in self._groups(classes):
            wanted = [(label, j) for label, places in group for j in range(self.candidates(places))]
            own = [stream_seed(seed, label, j) for label, j in wanted]
            found, rated = self._made(torch.tensor([label for label, _ in wanted]), own)
            images = found.new_empty(count, *found.shape[1:]) if images is None else images
            start, made = 0, made + len(own)
            for label, places in group:
                rows = torch.arange(start, start + self.candidates(places))
                start += len(rows)
                best = rows[rated[rows].argsort(descending=True, stable=True)[:places]]
                best = best.sort().values
                here = (classes == label).nonzero()[:, 0]
                images[here.to(images.device)] = found[best.to(found.device)]
                log_probs[here] = rated[best]
                for place, row in zip(here.tolist(), best.tolist(), strict=True):
                    seeds[place] = own[row]
        assert images is not None
        nfe = self.sampler.nfe * made / count
        return Selection(images, classes, tuple(seeds), log_probs, made, nfe)

    def _groups(self, classes: Tensor) -> Iterator[list[tuple[int, int]]]:
        """(label, images wanted) of classes that are made together, labels increasing."""
        group, size = [], 0
        for label, places in zip(*classes.unique(return_counts=True), strict=True):
            group.append((int(label), int(places)))
            size += self.candidates(int(places))
            if size >= (self.sampler.batch_size or CHUNK):
                yield group
                group, size = [], 0
        if group:
            yield group

    def _made(self, labels: Tensor, seeds: list[int]) -> tuple[Tensor, Tensor]:
        """Images, and the classifier's log p(label | image) on the CPU."""
        size = self.sampler.batch_size or CHUNK
        images, rated = [], []
        for start in range(0, len(seeds), size):
            own = labels[start : start + size]
            batch = self.sampler(labels=own, seed=seeds[start : start + size])
            with evaluating(module_of(self.classifier)), torch.inference_mode():
                levels = per_sample(float(self.sigma or 0), batch)
                logits = logits_of(self.classifier, batch, levels)
            if logits.shape[1] < self.sampler.model.label_dim:
                raise ValueError(
                    f"the classifier has {logits.shape[1]} classes, fewer than the model's "
                    f"{self.sampler.model.label_dim}"
                )
            images.append(batch)
            # In float32 all confident probabilities would round to the same one.
            rated.append(label_log_prob(logits.cpu().double(), own))
        log_probs = torch.cat(rated)
        if bool(log_probs.isnan().any()):
            raise ValueError("the classifier's log probabilities are not all numbers (nan)")
        return torch.cat(images), log_probs
