"""The trace of a denoiser's Jacobian: exact, or estimated from random directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..rng import stream

EXACT_DIMS = 32  # values per image up to which the trace is exact by default
TRACES = ("exact", "hutchinson")
PROBES = 1  # what a stream of random numbers is for, beside the seed of the image


def resolve_trace(trace: str | None, probes: int, dims: int) -> str:
    """Name in TRACES: the given one, else exact for at most EXACT_DIMS values per image.

    Raises:
        ValueError: for an unknown name or fewer than one probe.
    """
    if trace is not None and trace not in TRACES:
        raise ValueError(f"trace is {trace!r}; choose from {TRACES}, or None for the default")
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 1:
        raise ValueError(f"probes is {probes!r}; it must be an integer, at least 1")
    return trace or ("exact" if dims <= EXACT_DIMS else "hutchinson")


def rademacher(seeds: Sequence[int], probes: int, shape: Sequence[int]) -> Tensor:
    """Directions of -1 and +1, (len(seeds), probes, *shape) int8; row i depends on seeds[i] alone.

    Of the same seed, the first directions are the same for every number of probes.
    """
    rows = []
    for seed in seeds:
        generator = stream(seed, PROBES)
        draws = [torch.randint(0, 2, tuple(shape), generator=generator) for _ in range(probes)]
        rows.append(torch.stack(draws))
    return (2 * torch.stack(rows) - 1).to(torch.int8)


def traced(
    model: Any, x: Tensor, sigma: Tensor, labels: Tensor | None = None, probes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(E[image | x], trace of its Jacobian in x): shape of x, and (batch,) in x's dtype.

    One network call, then one pass backwards per value of an image or per probe: kernels of first
    derivatives are all that this needs of a network.

    Args:
        model: called as model(x, sigma, labels).
        x: (batch, ...) noisy images, float32 or float64.
        sigma: (batch,) noise levels.
        labels: passed to the model.
        probes: (batch, probes, ...) directions v; the trace is the mean of v^T J v. None: exact.

    Raises:
        ValueError: for a model whose answer has no gradient.

    Source: Hutchinson 1990; Grathwohl et al. 2019 (FFJORD, arXiv:1810.01367), Section 3.1.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        denoised = model(x, sigma, labels)
    if not denoised.requires_grad:
        raise ValueError(
            "the model's answer has no gradient in x, so it has no likelihood; give the original "
            "of a frozen model, without torch.no_grad inside"
        )
    total = x.new_zeros(len(x), dtype=torch.float64)
    count = x[0].numel() if probes is None else probes.shape[1]
    for i in range(count):
        if probes is None:
            direction = torch.zeros_like(x).flatten(1)
            direction[:, i] = 1
            direction = direction.view_as(x)
        else:
            direction = probes[:, i].to(x)
        (slope,) = torch.autograd.grad(
            denoised, x, direction.to(denoised.dtype), retain_graph=i + 1 < count, allow_unused=True
        )
        if slope is not None:
            total += (slope * direction).flatten(1).sum(1, dtype=torch.float64)
    return denoised.detach().to(x.dtype), (total / (1 if probes is None else count)).to(x.dtype)


def check_gradient(model: Any, x: Tensor, sigma: float, labels: Tensor | None = None) -> None:
    """Raise ValueError if the model's gradient is not the one of its answers.

    A part of the network inside `torch.no_grad`, or a kernel without derivative, would give a
    wrong likelihood and no error. Compares v^T J v with a central difference, coarsely.

    Args:
        model: called as model(x, sigma, labels).
        x: (1, ...) noisy image at level `sigma`.
        sigma: noise level.
        labels: of this image.
    """
    v = rademacher([0], 1, x.shape[1:])
    direction, level = v[:, 0].to(x), x.new_full((1,), sigma)
    _, found = traced(model, x, level, labels, v.to(x.device))
    h = 1e-2 * sigma
    with torch.no_grad():
        ahead, behind = (model(x + s * direction, level, labels) for s in (h, -h))
    measured = float(((ahead - behind) * direction).sum()) / (2 * h)
    # Room for float32 rounding and curvature.
    if abs(float(found) - measured) > 0.05 * (abs(measured) + abs(float(found))) + 0.02 * v.numel():
        raise ValueError(
            f"the model's gradient does not belong to its answers (v^T J v is {float(found):.4g} "
            f"by its gradient and {measured:.4g} by differences): part of it runs without "
            "gradients, or it is not a function of x"
        )
