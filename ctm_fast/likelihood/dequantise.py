"""Grey levels as intervals of a continuous scale, and densities on it as bits per dimension.

A density of continuous images says something about images of `levels` grey levels when each value
v = 0, ..., levels - 1 is spread evenly over an interval of width w: then P(v) >= exp(E[ln p]) w per
dimension, so that bits/dim = -log p/(d ln 2) - log2(w).

* "centred": value v is x_v = 2 v/(levels - 1) - 1 in an image of our data sets (0 is -1, white is
  +1), and becomes x_v + w (u - 1/2) with w = 2/(levels - 1), u uniform in [0, 1). The intervals
  touch, and every image keeps the scale that models are trained on. -log2(w) is
  log2((levels - 1)/2): 3 for the digits' 17 levels, 6.994 for 256.
* "published": 2 (v + u)/levels - 1, w = 2/levels, as in score_sde and CTM's eval_bpd. -log2(w) is
  log2(levels/2): 7 for 256 levels, 3.087 for 17. Images shrink by (levels - 1)/levels, which a
  model of few levels notices.
* None: images are taken as they are, dequantised already as in "published" (or continuous: then
  bits/dim say how much a level of that width would take). Their range is not looked at.

A model that was trained on the grey levels themselves knows images between them only as far as its
sigma_min blurs them. A perfect one of the usual levels (w = 0.0078, sigma_min = 0.002) loses 0.12
bits/dim in this way, one of the digits (w = 0.125, sigma_min = 0.01) 7.1: there bits/dim rise again
when training reaches the lowest levels. They are honest bounds, but compare models of one sigma_min
and training only. The ELBO loses more than twice as much.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ..rng import stream
from ..sampler.seeding import as_seeds

DEQUANTISATIONS = ("centred", "published")
UNIFORM = 0  # what a stream of random numbers is for, beside the seed of the image
OFF_GRID = 0.02  # of an interval; what an image's rounding may amount to


def interval(levels: int, dequantise: str | None) -> float:
    """Width w of a grey level.

    Raises:
        ValueError: for fewer than two levels or an unknown way.
    """
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 2:
        raise ValueError(f"levels is {levels!r}; it must be an integer, at least 2")
    if dequantise not in (*DEQUANTISATIONS, None):
        raise ValueError(f"dequantise is {dequantise!r}; choose from {DEQUANTISATIONS} or None")
    return 2 / (levels - 1) if dequantise == "centred" else 2 / levels


def bits(log_p: Tensor, dims: int, levels: int = 256, dequantise: str | None = "centred") -> Tensor:
    """Bits per dimension, shape of log_p: -log_p/(dims ln 2) - log2(width of a grey level).

    Args:
        log_p: log density in nats of images dequantised so.
        dims: values per image.
        levels: grey levels, at least 2.
        dequantise: "centred", "published" or None; see the module.

    Raises:
        ValueError: for fewer than two levels or an unknown way.
    """
    return -log_p / (dims * math.log(2)) - math.log2(interval(levels, dequantise))


def dequantised(
    images: Tensor,
    levels: int = 256,
    dequantise: str | None = "centred",
    *,
    seed: int | Iterable[int] = 0,
) -> Tensor:
    """Images with each grey level spread evenly over its interval, (batch, C, H, W) float64.

    Args:
        images: (batch, C, H, W) in [-1, 1], of grey levels 2 v/(levels - 1) - 1.
        levels: grey levels, at least 2.
        dequantise: "centred", "published" or None; see the module.
        seed: one integer or one per image, as of `Sampler`; an image depends on its seed alone.

    Raises:
        ValueError: for images outside [-1, 1] or between the grey levels, and as `bits`.

    Source: Theis et al. 2016 (arXiv:1511.01844), Section 3.1.
    """
    width = interval(levels, dequantise)
    exact = images.to(torch.float64)
    if dequantise is None:
        return exact
    if len(images) and not bool((exact.abs() <= 1 + 1e-4).all()):
        low, high = float(images.min()), float(images.max())
        raise ValueError(f"images have values in [{low:g}, {high:g}]; allowed are those in [-1, 1]")
    values = (exact + 1) * ((levels - 1) / 2)
    whole = values.round()
    if len(images) and float(off := (values - whole).abs().max()) > OFF_GRID:
        raise ValueError(
            f"images have values {float(off):.2g} of a step off the {levels} grey levels "
            f"2 v/{levels - 1} - 1; give their number of levels=, or dequantise=None for images "
            "that are not quantised"
        )
    seeds = as_seeds(seed, len(images))
    draws = [
        torch.rand(images.shape[1:], dtype=torch.float64, generator=stream(s, UNIFORM))
        for s in seeds
    ]
    uniform = torch.stack(draws).to(images.device) if draws else torch.zeros_like(exact)
    shift = 0.5 if dequantise == "centred" else 0.0
    return (whole + uniform - shift) * width - 1
