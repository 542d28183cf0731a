"""Frechet distance of two Gaussians in float64, from their means and covariances."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(
    mean: Tensor, covariance: Tensor, mean_to: Tensor, covariance_to: Tensor
) -> float:
    """|m - m'|^2 + Tr(S + S' - 2 (S S')^(1/2)), >= 0 up to rounding.

    Written here because torchmetrics and torch-fidelity have no public function of two means and
    two covariances, which is what published reference statistics are: a `FrechetInceptionDistance`
    would have to be given made-up sums through its buffers. The trace of the root is the sum of
    the singular values of A^T B with S = A A^T and S' = B B^T, which needs neither SciPy nor the
    eigenvalues of a matrix that is not symmetric.

    Args:
        mean: (D,) of one Gaussian.
        covariance: (D, D), symmetric.
        mean_to: (D,) of the other.
        covariance_to: (D, D).

    Raises:
        ValueError: for shapes that do not fit, or values that are not finite.

    Source: Dowson and Landau 1982; Heusel et al. 2017, arXiv:1706.08500, Eq. 6.
    """
    width = mean.numel()
    for name, value, shape in (
        ("mean", mean, (width,)),
        ("covariance", covariance, (width, width)),
        ("mean_to", mean_to, (width,)),
        ("covariance_to", covariance_to, (width, width)),
    ):
        if tuple(value.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; need {shape}")
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} holds values that are not finite")
    device = mean.device
    m, S, n, T = (v.to(device, torch.float64) for v in (mean, covariance, mean_to, covariance_to))
    root_trace = torch.linalg.svdvals(_factor(S).T @ _factor(T)).sum()
    return float((m - n).square().sum() + S.trace() + T.trace() - 2 * root_trace)


def _factor(covariance: Tensor) -> Tensor:
    """A with A A^T = covariance; eigenvalues that rounding made negative count as zero."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    return vectors * values.clamp(min=0).sqrt()
