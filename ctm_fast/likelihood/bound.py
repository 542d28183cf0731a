"""A lower bound on the log likelihood by denoising at random noise levels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..rng import stream
from ..sampler.engine import device_of
from ..sampler.seeding import as_seeds, noise_for
from .inputs import (
    batches,
    checked_class_labels,
    checked_images,
    checked_model,
    outside_inference,
    sigma_data_of,
    sigma_range,
)

LEVELS = 2  # what a stream of random numbers is for, beside the seed of the image
CONTROL = 0.5  # share of a Gaussian's scatter that is taken off; 1 is best for Gaussian data
FIRST_NOISE = 2**61  # noise k of the image's seed is this + k; no sampler counts that far


def elbo(
    model: Any,
    images: Tensor,
    labels: Any = None,
    *,
    samples: int = 32,
    seed: int | Iterable[int] = 0,
    batch_size: int = 128,
    dtype: torch.dtype = torch.float64,
    progress: bool = False,
) -> Tensor:
    """Estimate of a lower bound on log p(x), (batch,) float64, nats; -elbo is at least -log p.

    The evidence lower bound of the diffusion model that the denoiser defines, without bias:

        -|x|^2/(2 sigma_max^2) - int E|x - D(x + sigma n)|^2/sigma^2 d ln(sigma)
        - E|x - D(x + sigma_min n)|^2/(2 sigma_min^2) - d/2 ln(2 pi sigma_min^2)

    It holds for the density of the images themselves (no noise) under the reverse-time SDE; for an
    exact denoiser that is the density of the flow, for a trained one it may differ. Images that lie
    off what the denoiser takes for the data by r cost r^2/sigma_min^2 nats, twice what they cost in
    the flow's density at sigma_min: see `ctm_fast.likelihood.dequantise`. Levels are
    drawn in proportion to what the integrand is for Gaussian data, sd^2/(sd^2 + sigma^2) per
    d ln(sigma), stratified over the samples of an image. Dequantise images of grey levels first,
    and turn the result into bits/dim with `ctm_fast.likelihood.bits`.

    Args:
        model: `Denoiser`, `Group`, or anything that `wrap` takes; of kind denoiser or trajectory.
        images: (batch, C, H, W) in the model's scale, usually [-1, 1].
        labels: (batch,) classes or (batch, label_dim) weights, of a conditional model only.
        samples: noise levels per image, each one network call; and one call at sigma_min.
        seed: of levels and noise, one integer or one per image.
        batch_size: images per network call.
        dtype: of the noisy images.
        progress: show a bar.

    Raises:
        ValueError: for options, models, images or labels that are not allowed.

    Source: Song et al. 2021 (arXiv:2101.09258), Theorem 3; Kingma et al. 2021 (arXiv:2107.00630),
    Eq. 18.
    """
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples is {samples!r}; it must be an integer, at least 1")
    model = checked_model(model)
    x = checked_images(model, images, dtype)
    classes = checked_class_labels(model, labels, len(x))
    seeds, device = as_seeds(seed, len(x)), device_of(model, x)
    low, high = sigma_range(model)
    proposal = Proposal(low, high, sigma_data_of(model))
    bounds = [torch.zeros(0, dtype=torch.float64, device=device)]
    with outside_inference(model), torch.no_grad():
        for rows in batches(len(x), batch_size, progress):
            part = x[rows].to(device)
            own = None if classes is None else classes[rows].to(device)

            def missed(sigma: Tensor, k: int, x: Tensor, labels: Any, who: list[int]) -> Tensor:
                """|x - D(x + sigma n)|^2/sigma^2 without most of its scatter, (images,) float64."""
                level = sigma.reshape(-1, *[1] * (x.ndim - 1))
                noise = noise_for(who, FIRST_NOISE + k, x.shape[1:], x.device, x.dtype)
                off = (x - model(x + level * noise, sigma, labels)) / level
                # What it would be for Gaussian data, and its mean over the noise.
                kept = proposal.variance / (proposal.variance + level**2)
                still = (1 - kept) / level * x
                excess = (still - kept * noise).square() - still.square() - kept**2
                return (off.square() - CONTROL * excess).double().flatten(1).sum(1)

            who = seeds[rows]
            dims = part[0].numel()
            bound = part.double().flatten(1).square().sum(1) / (2 * high**2)
            bound += 0.5 * missed(part.new_full((len(part),), low), 0, part, own, who)
            bound += 0.5 * dims * math.log(2 * math.pi * low**2)
            uniform = torch.stack(
                [torch.rand(samples, generator=stream(s, LEVELS), dtype=torch.float64) for s in who]
            ).to(device)
            for k in range(samples):
                sigma, density = proposal((k + uniform[:, k]) / samples)
                bound += missed(sigma.to(part), 1 + k, part, own, who) / density / samples
            bounds.append(-bound)
    return torch.cat(bounds)


class Proposal:
    """Levels in [low, high] with a density over ln(sigma) in proportion to sd^2/(sd^2 + sigma^2).

    Args:
        low: smallest level, > 0.
        high: largest one.
        sigma_data: sd, > 0.
    """

    def __init__(self, low: float, high: float, sigma_data: float) -> None:
        self.variance = sigma_data**2
        # G(sigma) = ln(sigma^2/(sd^2 + sigma^2))/2 is the integral of the density.
        self.first, self.last = (
            -0.5 * math.log1p(self.variance / level**2) for level in (low, high)
        )

    def __call__(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """(levels, their density over ln sigma) of uniform numbers in [0, 1), float64."""
        integral = self.first + uniform * (self.last - self.first)
        square = self.variance / torch.expm1(-2 * integral)
        density = self.variance / (self.variance + square) / (self.last - self.first)
        return square.sqrt(), density
