"""Stable consistency tuning (SCT). Wang, Geng & Li 2024, arXiv:2410.18958.

ECT with three changes, each of which can be switched off alone: the pair's lower point is an
estimate of less variance, the gap shrinks in smaller steps, and the levels may be cut in phases.
The fourth change, guidance by a worse version of the model, belongs to sampling:
`ctm_fast.wrappers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..gaps import AnyGap, SigmoidGap
from ..registry import choice
from .ect import ECT
from .objective import Batch, Models
from .references import Pool, by_class, check_classes, gathered, others_of_batch
from .score_identity import FLOAT64_BELOW, Posterior, moved, posterior_mean

REFERENCES = ("none", "minibatch", "pool", "data")
ZERO_TARGETS = ("posterior", "image")


def smooth_gap() -> SigmoidGap:
    """ECT's CIFAR-10 mapping with the same ends, its stage moving in every step.

    "Smaller and smoother" is all that is known of the published schedule: unverified.
    """
    return SigmoidGap(q=2.0, stages=8, smooth=True)


@dataclass(frozen=True)
class SCT(ECT):
    """Consistency tuning with a variance-reduced target.

    ECT's lower point is x_r = x0 + r noise: a step from x_t towards the one image that x_t was made
    of. Here it is a step towards the mean of a reference set, weighted by how probable each of its
    images is behind x_t (`losses.score_identity`). x0 is always in the set, so the target is
    unbiased for every size, and its variance falls about like 1/size where t is large. How large
    the effect is on given data is told by the effective sample size: `prepare` leaves it in
    `draw["ess"]`, (batch,), 1 where nothing is gained. It costs a matrix product of batch x size x
    pixels and no call of the network. With `Norm`, ECT's distance, every image's gradient has the
    same length however near its target is, so that a smaller variance shows in directions only;
    with `L2` or a wide `PseudoHuber` the gradient itself becomes less noisy.

    `reference` is one of

    - none: x0 alone, which is ECT;
    - minibatch: the images of the step's batch, over all processes (gathered by one `all_gather`
      in `prepare`, which therefore all processes have to call); with `references` only so many of
      them, beginning with x0;
    - pool: x0 and `references` - 1 images drawn from the data set anew in every step, the same for
      all rows and processes;
    - data: the whole data set, of which x0 must be one: the exact posterior mean of the data set,
      which a small set invites to memorise. x0 is not added, as it would then count twice.

    "pool" and "data" need the data set's images, see `attach`. With labels every set holds one
    class alone: the images of its own class in a batch, the images of a class in a pool. Labels
    that are not whole numbers are refused.

    A set depends on the step's whole batch and on random numbers of the step, never on the
    microbatch or on the number of processes (on the latter up to the rounding of sums).

    With `edges` 0 < e_1 < .. < e_k the levels fall into phases (e_i, e_i+1], the lowest from 0 and
    the highest without end. A phase maps to its lower edge e, f(x, t) = (e/t) x + (1 - e/t) D(x, t)
    with the student D, and r is at least e. Such a student is sampled by method="phased".

    Size of the set, gap and edges of the published runs are unverified, and so is `zero_target`.

    Source: Wang et al. 2024, Section 4; without published code.
    """

    diagnostics: ClassVar[tuple[str, ...]] = ("ess",)  # in every log line
    whole_batch: ClassVar[bool] = True  # sets of images belong to the step's batch

    gap: AnyGap = choice("ctm_fast.gaps:GAPS", smooth_gap)  # r(t, stage)
    reference: str = "minibatch"  # none | minibatch | pool | data
    references: int | None = None  # images of a set with x0, >= 1; None: the batch; pool needs it
    # Target where r is the lower edge: posterior, the mean of the set, or image, as in ECT.
    zero_target: str = "posterior"
    edges: tuple[float, ...] = ()  # levels between phases, > 0 and increasing
    float64_below: float = FLOAT64_BELOW  # rows with a smaller t are compared in float64

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("reference", self.reference, REFERENCES)
        _check("zero_target", self.zero_target, ZERO_TARGETS)
        if self.references is not None and self.references < 1:
            raise ValueError(f"references must be at least 1, got {self.references}")
        if (self.reference == "pool") and self.references is None:
            raise ValueError("reference='pool' needs the number of images, references=...")
        if self.reference in ("none", "data") and self.references is not None:
            raise ValueError(
                f"reference={self.reference!r} has a size of its own, got "
                f"references={self.references}"
            )
        bounds = (0.0, *self.edges)
        if any(not low < high < float("inf") for low, high in pairwise(bounds)):
            raise ValueError(f"edges must be positive and increasing, got {self.edges}")

    @property
    def wants_data(self) -> bool:
        """Whether the objective needs `attach`."""
        return self.reference in ("pool", "data")

    def attach(self, images: Tensor, labels: Tensor | None = None) -> None:
        """Keep the images that "pool" and "data" refer to. They are not part of the options.

        Args:
            images: (N, C, H, W) in [-1, 1], float32 or float16, scaled and augmented as those of
                the batches; they stay where they are, so on the GPU they save a copy per step.
            labels: (N,) int64 classes if the student takes labels.

        Raises:
            ValueError: for another shape, or no images.
        """
        object.__setattr__(self, "_pool", Pool(images, labels))

    def lower_edge(self, t: Tensor) -> Tensor:
        """Lower end of the phase that holds t, shape and dtype of `t`; 0 without edges."""
        edges = torch.tensor((0.0, *self.edges), dtype=t.dtype, device=t.device)
        return edges[torch.bucketize(t, edges[1:])]

    def levels(
        self, batch_size: int, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, Tensor]:
        """Noise levels t and r, (batch_size,) float64 each; r not below the phase of t."""
        t, r = super().levels(batch_size, generator, progress)
        return t, torch.maximum(r, self.lower_edge(t))

    def draw(
        self,
        batch_size: int,
        shape: tuple[int, ...],
        generator: torch.Generator,
        progress: float = 0.0,
    ) -> dict[str, Any]:
        """ECT's numbers, the rows to be compared in float64, and the seed of the pool."""
        draw = super().draw(batch_size, shape, generator, progress)
        draw["float64"] = draw["t"] < self.float64_below
        if self.reference == "pool":
            seed = torch.randint(2**62, (), generator=generator, device=generator.device)
            draw["pool_seed"] = int(seed)
        return draw

    def posterior(self, batch: Batch) -> Posterior:
        """Mean of each row's reference set behind its x_t, and the effective sample size.

        Raises:
            ValueError: without the data set, for a class without images in it, or for labels that
                are not whole numbers.
        """
        images, draw = batch.images, batch.draw
        known = batch.known("float64")
        wide = draw["float64"].cpu() if known is None else known
        if self.reference == "none":
            return posterior_mean(draw["x_t"], draw["t"], images[:0], images, None, wide)
        if self.reference == "minibatch":
            return self._in_minibatch(batch, wide)
        pool: Pool | None = getattr(self, "_pool", None)
        if pool is None:
            raise ValueError(
                f"SCT(reference={self.reference!r}) needs the data set's images; give them by "
                "attach(images, labels), or use reference='minibatch'"
            )
        mean, size = torch.empty_like(images), images.new_empty(len(images))
        for label, rows in by_class(batch.labels, len(batch)):
            there = rows.to(images.device)
            own = images[there] if self.reference == "pool" else None
            if self.reference == "data" or self.references is None:
                references = pool.of_class(label)
            else:
                references = pool.drawn(self.references - 1, draw["pool_seed"], label)
            found = posterior_mean(
                draw["x_t"][there], draw["t"][there], references, own, None, wide[rows]
            )
            mean[there], size[there] = found.mean, found.sample_size
        return Posterior(mean, size)

    def _in_minibatch(self, batch: Batch, wide: Tensor) -> Posterior:
        check_classes(batch.labels)
        everyone, first = gathered(batch.images)
        labels = None if batch.labels is None else gathered(batch.labels)[0]
        total = len(everyone)
        size = total if self.references is None else self.references
        allowed = others_of_batch(batch.labels, labels, first, len(batch), total, size)
        return posterior_mean(
            batch.draw["x_t"],
            batch.draw["t"],
            everyone,
            batch.images,
            allowed.to(batch.images.device),
            wide,
        )

    def point(self, batch: Batch, models: Models, progress: float) -> Tensor:
        """x_r, a step from x_t towards the mean of the reference set: (batch, C, H, W)."""
        draw = batch.draw
        mean, draw["ess"] = self.posterior(batch)
        x_r = moved(draw["x_t"], draw["t"], draw["r"], mean)
        if self.zero_target == "posterior":
            return x_r
        image = super().point(batch, models, progress)
        return torch.where(_rows(self._arrived(batch), x_r), image, x_r)

    def estimate(
        self, x_t: Tensor, t: Tensor, batch: Batch, models: Models, progress: float
    ) -> Tensor:
        """The student's image, or its point at the phase's lower edge, with gradient."""
        image = super().estimate(x_t, t, batch, models, progress)
        return self._at_edge(x_t, batch.draw["t"], image, batch)

    def target(
        self, x_r: Tensor, r: Tensor, batch: Batch, models: Models, progress: float
    ) -> Tensor:
        """The same from x_r, without gradient; x_r itself, bit by bit, where r is the edge."""
        # Every row passes through the network, for the dropout masks; see `Consistency.target`.
        arrived = self._arrived(batch)
        level = torch.where(arrived, batch.draw["t"], batch.draw["r"])
        image = models.student(x_r, level.to(x_r.dtype), batch.labels)
        return torch.where(_rows(arrived, x_r), x_r, self._at_edge(x_r, level, image, batch))

    def _arrived(self, batch: Batch) -> Tensor:
        """Rows whose r is the lower edge of their phase, (batch,) bool."""
        arrived: Tensor = batch.draw["r"] == self.lower_edge(batch.draw["t"])
        return arrived

    def _at_edge(self, x: Tensor, level: Tensor, image: Tensor, batch: Batch) -> Tensor:
        """(e/level) x + (1 - e/level) image, e being the lower edge of the row's phase."""
        if not self.edges:
            return image
        # What `moved` does: a step from `level` to the edge, towards the image.
        return moved(x, level, self.lower_edge(batch.draw["t"]), image)


def _rows(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (x.ndim - 1))


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; choose from {sorted(allowed)}")
