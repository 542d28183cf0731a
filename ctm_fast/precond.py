"""Preconditionings: how a network's output F becomes a denoised image or a jump.

Legend: t is the noise level of the input, s the level jumped to, sd is sigma_data.
Karras et al. 2022 (EDM), Song et al. 2023 (CM), Kim et al. 2024 (CTM, arXiv:2310.02279).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from .registry import Registry
from .sigmas import SIGMA_MIN

Coefficients = tuple[Tensor, Tensor]


class Inner(Protocol):
    """g = c_skip(t) x + c_out(t) F."""

    @property
    def sigma_data(self) -> float:
        """Standard deviation of the data that the scalings assume."""
        ...

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """(c_skip, c_out), shape of `sigma`."""
        ...


class Outer(Protocol):
    """G = a(t, s) x + b(t, s) g, and the denoised image as g + e(t) x."""

    def coefficients(self, sigma: Tensor, sigma_to: Tensor, sigma_data: float) -> Coefficients:
        """(a, b), shape of `sigma`."""
        ...

    def denoised_offset(self, sigma: Tensor, sigma_data: float) -> Tensor | None:
        """e(t), or None where the denoised image is g itself."""
        ...


@dataclass(frozen=True)
class EDM:
    """EDM scalings: c_skip = sd^2/(t^2+sd^2), c_out = t sd/sqrt(t^2+sd^2).

    Source: Karras et al. 2022, Table 1.
    """

    sigma_data: float = 0.5  # standard deviation of the training data, > 0

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """(c_skip, c_out), shape of `sigma`."""
        total = sigma**2 + self.sigma_data**2
        return self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt()


@dataclass(frozen=True)
class CM:
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
class Plain:
    """No inner scaling, g = F: CTM's `inner_parametrization=no`."""

    sigma_data: float = 0.5  # standard deviation of the training data, > 0; used by c_in only

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """(c_skip, c_out) = (0, 1), shape of `sigma`."""
        return torch.zeros_like(sigma), torch.ones_like(sigma)


@dataclass(frozen=True)
class Euler:
    """G = (s/t) x + (1 - s/t) g, the published CTM parametrisation. Source: CTM, Eq. 5."""

    def coefficients(self, sigma: Tensor, sigma_to: Tensor, sigma_data: float) -> Coefficients:
        """(a, b), shape of `sigma`."""
        ratio = sigma_to / sigma
        return ratio, 1 - ratio

    def denoised_offset(self, sigma: Tensor, sigma_data: float) -> Tensor | None:
        """None: the denoised image is g."""
        return None


@dataclass(frozen=True)
class Variance:
    """G = sqrt(((s-m)^2+sd^2)/((t-m)^2+sd^2)) x + (1 - s/t) g, m = sigma_min.

    Source: sony/ctm, `outer_parametrization=variance`.
    """

    sigma_min: float = SIGMA_MIN  # m

    def coefficients(self, sigma: Tensor, sigma_to: Tensor, sigma_data: float) -> Coefficients:
        """(a, b), shape of `sigma`."""
        m, var = self.sigma_min, sigma_data**2
        keep = (((sigma_to - m) ** 2 + var) / ((sigma - m) ** 2 + var)).sqrt()
        return keep, 1 - sigma_to / sigma

    def denoised_offset(self, sigma: Tensor, sigma_data: float) -> Tensor | None:
        """e(t) = (m^2 + sd^2 - m t)/((t-m)^2 + sd^2)."""
        m, var = self.sigma_min, sigma_data**2
        return (m**2 + var - m * sigma) / ((sigma - m) ** 2 + var)


@dataclass(frozen=True)
class EulerVarianceMixed:
    """Mean of the two others weighted by 1/(t+1) and t/(t+1).

    Source: sony/ctm, `outer_parametrization=euler_variance_mixed`.
    """

    sigma_min: float = SIGMA_MIN  # m

    def coefficients(self, sigma: Tensor, sigma_to: Tensor, sigma_data: float) -> Coefficients:
        """(a, b), shape of `sigma`."""
        keep, on_g = Variance(self.sigma_min).coefficients(sigma, sigma_to, sigma_data)
        return (sigma_to + keep) / (sigma + 1), on_g

    def denoised_offset(self, sigma: Tensor, sigma_data: float) -> Tensor | None:
        """e(t) = 1 - t/(t+1) (1 + (t-m)/((t-m)^2 + sd^2))."""
        shifted = sigma - self.sigma_min
        slope = 1 + shifted / (shifted**2 + sigma_data**2)
        return 1 - sigma / (sigma + 1) * slope


INNER = Registry(
    "inner parametrisation",
    {
        "edm": "ctm_fast.precond:EDM",
        "cm": "ctm_fast.precond:CM",
        "plain": "ctm_fast.precond:Plain",
    },
)
OUTER = Registry(
    "outer parametrisation",
    {
        "euler": "ctm_fast.precond:Euler",
        "variance": "ctm_fast.precond:Variance",
        "euler_variance_mixed": "ctm_fast.precond:EulerVarianceMixed",
    },
)


def _quarter_log(sigma: Tensor) -> Tensor:
    return sigma.log() / 4


def _log_250(sigma: Tensor) -> Tensor:
    return 250 * (sigma + 1e-44).log()


# CTM on SongUNet networks uses the first, ADM networks the second.
NOISE_EMBEDDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "quarter_log": _quarter_log,
    "log_250": _log_250,
}


@dataclass(frozen=True)
class Preconditioning:
    """The choices that turn a network F(c_in x, c_noise(t), c_noise(s)) into D and G."""

    inner: Inner = field(default_factory=EDM)  # how F becomes g
    outer: Outer = field(default_factory=Euler)  # how g becomes a jump
    noise_embedding: str = "quarter_log"  # quarter_log: ln(t)/4; log_250: 250 ln(t + 1e-44)

    def __post_init__(self) -> None:
        if self.noise_embedding not in NOISE_EMBEDDINGS:
            raise ValueError(
                f"unknown noise_embedding {self.noise_embedding!r}; "
                f"choose from {sorted(NOISE_EMBEDDINGS)}"
            )
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data must be positive, got {self.sigma_data}")

    @property
    def sigma_data(self) -> float:
        """Standard deviation of the data that the scalings assume."""
        return self.inner.sigma_data

    def c_in(self, sigma: Tensor) -> Tensor:
        """1/sqrt(t^2 + sd^2), shape of `sigma`."""
        return (sigma**2 + self.sigma_data**2).rsqrt()

    def c_noise(self, sigma: Tensor) -> Tensor:
        """What the network is told about a noise level, shape of `sigma`."""
        return NOISE_EMBEDDINGS[self.noise_embedding](sigma)

    def denoise_coefficients(self, sigma: Tensor) -> Coefficients:
        """(P, Q) with denoised = P x + Q F(x, t, t), shape of `sigma`."""
        c_skip, c_out = self.inner.coefficients(sigma)
        offset = self.outer.denoised_offset(sigma, self.sigma_data)
        return (c_skip if offset is None else c_skip + offset), c_out

    def jump_coefficients(self, sigma: Tensor, sigma_to: Tensor) -> Coefficients:
        """(P, Q) with G(x, t, s) = P x + Q F(x, t, s), shape of `sigma`.

        Source: CTM, Eq. 5 with the inner scalings of Section 5.1 substituted.
        """
        c_skip, c_out = self.inner.coefficients(sigma)
        on_x, on_g = self.outer.coefficients(sigma, sigma_to, self.sigma_data)
        return on_x + on_g * c_skip, on_g * c_out

    def to_json(self) -> dict[str, Any]:
        """JSON form, read back by `from_json`."""
        return {
            "inner": INNER.to_json(self.inner),
            "outer": OUTER.to_json(self.outer),
            "noise_embedding": self.noise_embedding,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preconditioning:
        """Preconditioning written by `to_json`.

        Raises:
            ValueError: for unknown names, and unknown or missing fields.
        """
        fields = {"inner", "outer", "noise_embedding"}
        if set(data) != fields:
            unknown, missing = sorted(set(data) - fields), sorted(fields - set(data))
            raise ValueError(f"unknown preconditioning fields {unknown}, missing {missing}")
        return cls(
            INNER.from_json(data["inner"]),
            OUTER.from_json(data["outer"]),
            str(data["noise_embedding"]),
        )
