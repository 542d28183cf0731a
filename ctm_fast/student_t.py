"""Quantiles of Student's t distribution on an interval, for any number of degrees of freedom."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# 16-point Gauss-Legendre rule on [-1, 1]: nodes and weights, the same with the other sign.
_NODES = (
    (0.09501250983763744, 0.1894506104550685),
    (0.2816035507792589, 0.1826034150449236),
    (0.45801677765722737, 0.16915651939500254),
    (0.6178762444026438, 0.14959598881657674),
    (0.755404408355003, 0.12462897125553388),
    (0.8656312023878318, 0.09515851168249279),
    (0.9445750230732326, 0.062253523938647894),
    (0.9894009349916499, 0.027152459411754096),
)
_PANELS = 128  # parts into which the interval is cut


def truncated_quantile(p: Tensor, nu: float, low: float, high: float) -> Tensor:
    """Value x of a Student t variable below which a share `p` of its mass on [low, high] lies.

    With x = sqrt(nu) sinh(y) the density of y is cosh(y)^-nu: smooth for every nu and nearly flat
    for the small ones, where x itself spans hundreds of orders of magnitude. It is integrated by
    panels of Gauss-Legendre nodes and inverted by Newton's method inside a panel.

    Args:
        p: shares in [0, 1], float64.
        nu: degrees of freedom, > 0.
        low: lower end of the interval.
        high: upper end, > low.

    Returns:
        x: shape of `p`, float64, within [low, high].
    """
    root = math.sqrt(nu)
    ends = math.asinh(low / root), math.asinh(high / root)
    edges = torch.linspace(*ends, _PANELS + 1, dtype=torch.float64, device=p.device)
    # Relative to the largest density on the interval: a far tail alone would underflow.
    nearest = min(max(0.0, ends[0]), ends[1])
    peak = -nu * math.log(math.cosh(nearest))
    shares = torch.zeros_like(edges)
    shares[1:] = _mass(edges[:-1], edges[1:], nu, peak).cumsum(0)
    wanted = p * shares[-1]
    panel = (torch.searchsorted(shares, wanted, right=True) - 1).clamp(0, _PANELS - 1)
    left, right, rest = edges[panel], edges[panel + 1], wanted - shares[panel]
    y = (left + right) / 2
    for _ in range(8):
        error = _mass(left, y, nu, peak) - rest
        y = torch.minimum(torch.maximum(y - error / _density(y, nu, peak), left), right)
    return (root * y.sinh()).clamp(low, high)


def _density(y: Tensor, nu: float, peak: float) -> Tensor:
    # log cosh y without overflow
    log_cosh = y.abs() + torch.log1p((-2 * y.abs()).exp()) - math.log(2)
    # Not 0 where it underflows: Newton's method divides by it.
    return (-nu * log_cosh - peak).exp().clamp(min=1e-300)


def _mass(left: Tensor, right: Tensor, nu: float, peak: float) -> Tensor:
    nodes, weights = left.new_tensor(_NODES).T
    nodes, half = torch.cat([1 - nodes, 1 + nodes]), (right - left) / 2
    density = _density(left[..., None] + half[..., None] * nodes, nu, peak)
    return half * (density @ torch.cat([weights, weights]))
