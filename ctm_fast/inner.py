"""Inner scalings: how a network's output F becomes g, the denoised image of most models.

Legend: t is the noise level of the input, sd is sigma_data.
Karras et al. 2022 (EDM), Song et al. 2023 (CM), Geng et al. 2024 (ECT), 2025 (MeanFlow).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .registry import Registry
from .sigmas import SIGMA_MIN

Coefficients = tuple[Tensor, Tensor]


class Inner(Protocol):
    """g = c_skip(t) x + c_out(t) F(c_in(t) x)."""

    @property
    def sigma_data(self) -> float:
        """Standard deviation of the data that the scalings assume."""
        ...

    def c_in(self, sigma: Tensor) -> Tensor:
        """Factor on the network's input, shape of `sigma`."""
        ...

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """(c_skip, c_out), shape of `sigma`."""
        ...

    def velocity(self, sigma: Tensor) -> Coefficients:
        """(a, b) with a x + b F = (x - (1 + t) g)/t, shape of `sigma`."""
        ...


class _Inner:
    """What follows from `coefficients`."""

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """(c_skip, c_out), shape of `sigma`."""
        raise NotImplementedError

    def velocity(self, sigma: Tensor) -> Coefficients:
        """(a, b) with a x + b F = (x - (1 + t) g)/t, shape of `sigma`.

        On the linear path z = x/(1 + t), tau = t/(1 + t) that is the velocity noise - image of a
        denoised image g. It cancels for small t: compute it in float64.
        """
        c_skip, c_out = self.coefficients(sigma)
        return (1 - (1 + sigma) * c_skip) / sigma, -(1 + sigma) * c_out / sigma


class _UnitInput(_Inner):
    """c_in that gives the network's input variance 1 for data of deviation `sigma_data`."""

    sigma_data: float

    def c_in(self, sigma: Tensor) -> Tensor:
        """1/sqrt(t^2 + sd^2), shape of `sigma`."""
        return (sigma**2 + self.sigma_data**2).rsqrt()


@dataclass(frozen=True)
class EDM(_UnitInput):
    """EDM scalings: c_skip = sd^2/(t^2+sd^2), c_out = t sd/sqrt(t^2+sd^2).

    Source: Karras et al. 2022, Table 1.
    """

    sigma_data: float = 0.5  # standard deviation of the training data, > 0

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """(c_skip, c_out), shape of `sigma`."""
        total = sigma**2 + self.sigma_data**2
        return self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt()

    def velocity(self, sigma: Tensor) -> Coefficients:
        """((t - sd^2)/(t^2 + sd^2), -(1 + t) sd/sqrt(t^2 + sd^2)), shape of `sigma`."""
        total = sigma**2 + self.sigma_data**2
        on_F = -(1 + sigma) * self.sigma_data / total.sqrt()
        return (sigma - self.sigma_data**2) / total, on_F


@dataclass(frozen=True)
class CM(_UnitInput):
    """Consistency-model scalings: identity at t = sigma_min.

    c_skip = sd^2/((t-sigma_min)^2+sd^2), c_out = (t-sigma_min) sd/sqrt(t^2+sd^2); sigma_min is
    not subtracted inside the root. Source: Song et al. 2023, Appendix C.
    """

    sigma_data: float = 0.5  # standard deviation of the training data, > 0
    sigma_min: float = SIGMA_MIN  # noise level at which f is the identity

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """(c_skip, c_out), shape of `sigma`."""
        sd, shifted = self.sigma_data, sigma - self.sigma_min
        return sd**2 / (shifted**2 + sd**2), shifted * sd / (sigma**2 + sd**2).sqrt()


@dataclass(frozen=True)
class Plain(_UnitInput):
    """No inner scaling, g = F: CTM's `inner_parametrization=no`."""

    sigma_data: float = 0.5  # standard deviation of the training data, > 0; used by c_in only

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """(c_skip, c_out) = (0, 1), shape of `sigma`."""
        return torch.zeros_like(sigma), torch.ones_like(sigma)


@dataclass(frozen=True)
class Ect(_UnitInput):
    """Scalings with which ECT evaluates: EDM's, but t - shift in c_skip and in c_out's numerator.

    Training uses EDM's own (shift 0). Source: Geng et al. 2024, published CIFAR-10 code.
    """

    sigma_data: float = 0.5  # standard deviation of the training data, > 0
    shift: float = 0.003  # noise level at which f is the identity, >= 0

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """(c_skip, c_out), shape of `sigma`."""
        return CM(self.sigma_data, self.shift).coefficients(sigma)


class _UnitNoise(_Inner):
    """c_in of variance-preserving diffusion: x/sqrt(1+t^2) is alpha x0 + sqrt(1-alpha^2) noise."""

    def c_in(self, sigma: Tensor) -> Tensor:
        """1/sqrt(t^2 + 1), shape of `sigma`."""
        return (sigma**2 + 1).rsqrt()


@dataclass(frozen=True)
class Epsilon(_UnitNoise):
    """F predicts the noise: c_in = 1/sqrt(t^2+1), g = x - t F.

    Source: Karras et al. 2022, Table 1 (VP and iDDPM); Ho et al. 2020, Eq. 11.
    """

    sigma_data: float = 0.5  # of the training data, > 0; used by loss weights and Variance only

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """(c_skip, c_out) = (1, -t), shape of `sigma`."""
        return torch.ones_like(sigma), -sigma


@dataclass(frozen=True)
class Score(_Inner):
    """F predicts the score times t, from x unscaled: g = x + t F.

    Source: Karras et al. 2022, Table 1 (VE).
    """

    sigma_data: float = 0.5  # of the training data, > 0; used by loss weights and Variance only

    def c_in(self, sigma: Tensor) -> Tensor:
        """1, shape of `sigma`."""
        return torch.ones_like(sigma)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """(c_skip, c_out) = (1, t), shape of `sigma`."""
        return torch.ones_like(sigma), sigma


@dataclass(frozen=True)
class VPrediction(_UnitNoise):
    """F predicts v = (noise - t x0)/sqrt(1+t^2) from x/sqrt(1+t^2).

    Source: Salimans & Ho 2022, Section 4, with alpha = 1/sqrt(1+t^2).
    """

    sigma_data: float = 0.5  # of the training data, > 0; used by loss weights and Variance only

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """(c_skip, c_out) = (1/(1+t^2), -t/sqrt(1+t^2)), shape of `sigma`."""
        total = 1 + sigma**2
        return 1 / total, -sigma * total.rsqrt()


@dataclass(frozen=True)
class LinearFlow(_Inner):
    """F is a velocity of the linear path z = (1 - tau) image + tau noise, tau = t/(1+t).

    In units of sigma z = x/(1+t), which the network sees, and g = (x - t F)/(1+t). With the outer
    `Euler` a jump is the flow map z_s = z + (tau_s - tau) F: there F is the average velocity
    between the two levels, and the velocity noise - image itself where they are the same.

    Source: Lipman et al. 2023 (flow matching); Geng et al. 2025 (MeanFlow); Sabour et al. 2025
    (AYF).
    """

    sigma_data: float = 0.5  # of the training data, > 0; used by loss weights only

    def c_in(self, sigma: Tensor) -> Tensor:
        """1/(1+t), shape of `sigma`."""
        return 1 / (1 + sigma)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """(c_skip, c_out) = (1/(1+t), -t/(1+t)), shape of `sigma`."""
        return 1 / (1 + sigma), -sigma / (1 + sigma)

    def velocity(self, sigma: Tensor) -> Coefficients:
        """(0, 1), shape of `sigma`: F itself."""
        return torch.zeros_like(sigma), torch.ones_like(sigma)


INNER = Registry(
    "inner parametrisation",
    {
        "edm": "ctm_fast.inner:EDM",
        "cm": "ctm_fast.inner:CM",
        "plain": "ctm_fast.inner:Plain",
        "ect": "ctm_fast.inner:Ect",
        "epsilon": "ctm_fast.inner:Epsilon",
        "score": "ctm_fast.inner:Score",
        "v": "ctm_fast.inner:VPrediction",
        "linear_flow": "ctm_fast.inner:LinearFlow",
    },
)
