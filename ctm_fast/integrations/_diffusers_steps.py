"""Arithmetic of one step of `CTMScheduler`, for networks with one time and with two.

For one time, levels are rounded to float32 and operations ordered as in diffusers'
CMStochasticIterativeScheduler, so that its images come out to the last bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..denoiser import combined
from ..precond import CM, EDM, Preconditioning


def default_preconditioning(kind: str, sigma_data: float, sigma_min: float) -> Preconditioning:
    """The consistency models' scalings for one time, EDM's inside CTM's (Eq. 5) for two."""
    inner = EDM(sigma_data) if kind == "trajectory" else CM(sigma_data, sigma_min)
    return Preconditioning(inner, noise_embedding="log_250")


def one_time_input(x: Tensor, sigma: float, sigma_data: float) -> Tensor:
    """x / sqrt(sigma^2 + sigma_data^2), shape and dtype of x."""
    return x / (torch.tensor(sigma, dtype=torch.float32) ** 2 + sigma_data**2).sqrt()


def one_time_landing(x: Tensor, F: Tensor, sigma: float, precond: Preconditioning) -> Tensor:
    """f(x, t), shape and dtype of x."""
    P, Q = precond.denoise_coefficients(torch.tensor(sigma, dtype=torch.float32))
    return Q * F.to(x.dtype) + P * x


def one_time_std(following: float, low: float) -> Tensor:
    """Noise from sigma_min to the next level, () float32; about 7e-7 after the last step, not 0."""
    # Rounding can make the difference negative at the last level.
    return (torch.tensor(following, dtype=torch.float32) ** 2 - low**2).clamp(min=0).sqrt()


def two_times_input(x: Tensor, sigma: float, precond: Preconditioning) -> Tensor:
    """c_in x, shape and dtype of x."""
    return x * float(precond.c_in(torch.tensor(sigma, dtype=torch.float64)))


def two_times_landing(
    x: Tensor, F: Tensor, sigma: float, landing: float, precond: Preconditioning
) -> Tensor:
    """G(x, t, s), shape and dtype of x."""
    t, s = torch.tensor([sigma, landing], dtype=torch.float64)
    factors = precond.jump_coefficients(t, s)
    P, Q = (x.new_full((len(x),), float(factor)) for factor in factors)
    return combined(x, F, P, Q)
