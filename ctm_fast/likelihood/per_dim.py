"""Bits per dimension of images under a model, with the customary ways to report them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..sampler.engine import device_of
from ..sampler.seeding import as_seeds, noise_for
from .dequantise import bits, dequantised
from .flow import Flow, flow_of
from .inputs import (
    batches,
    checked_class_labels,
    checked_images,
    checked_model,
    outside_inference,
    sigma_range,
)

RESIDUALS = ("fixed", "official")
TAU, RHO = 1e-3, 7.0  # where CTM's eval_bpd starts on its curve from sigma_min to sigma_max
RESIDUAL_NOISE = 2**60  # what noise of the image's seed is for; no sampler counts that far


def bits_per_dim(
    model: Any,
    images: Tensor,
    labels: Any = None,
    *,
    levels: int = 256,
    dequantise: str | None = "centred",
    residual: str | None = None,
    seed: int | Iterable[int] = 0,
    **options: Any,
) -> Tensor:
    """Bits per dimension of images of grey levels, (batch,) float64.

    -log p(x)/(d ln 2) - log2(width of a grey level), x an image dequantised with uniform noise: on
    average over the noise an upper bound of -log2 P(image)/d, as all published numbers are.

    Args:
        model: `Denoiser`, `Group`, or anything that `wrap` takes; of kind denoiser or trajectory.
        images: (batch, C, H, W) in [-1, 1], of grey levels 2 v/(levels - 1) - 1.
        labels: (batch,) classes or (batch, label_dim) weights, of a conditional model only.
        levels: grey levels, at least 2; 17 for the digits.
        dequantise: "centred", "published" or None; see `ctm_fast.likelihood.dequantise`.
        residual: None: p is the model's density at sigma_min, at x itself. "fixed": what CTM's
            eval_bpd is meant to report, the bound log p(x_t) - R on the density without noise, with
            x_t = x + t n at t = 0.00205 (for the usual levels) and
            R = |x - D(x_t)|^2/(2 t^2) - d/2; n adds sqrt(1/(2 d))/ln 2 bits of scatter per image.
            "official": the same with R at t^(1/7) = 0.413, which that program computes; the result
            is 0.293 bits/dim lower on Gaussian data of deviation 0.5, and more so on images, which
            are easier to denoise. For comparison with the published 2.43 (CTM) and 2.56 (EDM) only.
        seed: of dequantisation, probes and the residual's noise, one integer or one per image; the
            result of an image depends on its own seed alone.
        options: fields of `Flow`: solver, rtol, atol, trace, probes, batch_size and others.

    Raises:
        ValueError: for options, models, images or labels that are not allowed.
        SolverError: if the tolerance cannot be met.

    Source: Kim et al. 2024 (CTM), Section 5.1 and `eval_bpd.py`; Theis et al. 2016.
    """
    if residual not in (*RESIDUALS, None):
        raise ValueError(f"residual is {residual!r}; choose from {RESIDUALS} or None")
    flow, model = flow_of(options), checked_model(model)
    given = checked_images(model, images, torch.float64)
    seeds = as_seeds(seed, len(given))
    x = dequantised(given, levels, dequantise, seed=seeds)
    classes = checked_class_labels(model, labels, len(x))
    dims = math.prod(x.shape[1:])
    if residual is None:
        log_p = flow(model, x, classes, seed=seeds).log_p
        return bits(log_p, dims, levels, dequantise)
    t, wrong = early_levels(model)
    noise = noise_for(seeds, RESIDUAL_NOISE, x.shape[1:], x.device, x.dtype)
    result = flow(model, x + t * noise, classes, seed=seeds, sigma=t)
    r = early_stop(model, x, noise, t if residual == "fixed" else wrong, classes, flow)
    return bits(result.log_p - r.to(result.log_p), dims, levels, dequantise)


def early_levels(model: Any) -> tuple[float, float]:
    """(level at which CTM's eval_bpd starts, the same without the power rho, its mistake)."""
    low, high = (end ** (1 / RHO) for end in sigma_range(model))
    root = low + TAU * (high - low)
    return root**RHO, root


def early_stop(
    model: Any, x: Tensor, noise: Tensor, t: float, labels: Tensor | None, flow: Flow
) -> Tensor:
    """R = |x - D(x + t n)|^2/(2 t^2) - d/2, (batch,) float64, nats.

    The cost of coming from x + t n back to x by N(D, t^2 I), less the entropy of the noise.

    Args:
        model: called as model(x, sigma, labels).
        x: (batch, ...) images.
        noise: n, shape of x.
        t: noise level.
        labels: of the images, or None.
        flow: gives batch size and dtype.
    """
    found, device = [], device_of(model, x)
    with outside_inference(model), torch.no_grad():
        for rows in batches(len(x), flow.batch_size, False):
            noisy = (x[rows] + t * noise[rows]).to(device, flow.dtype)
            own = None if labels is None else labels[rows].to(device)
            denoised = model(noisy, noisy.new_full((len(noisy),), t), own)
            off = x[rows].to(device) - denoised.to(torch.float64)
            found.append(off.flatten(1).square().sum(1) / (2 * t**2) - off[0].numel() / 2)
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)
