"""Preconditionings: how a network's output F becomes a denoised image or a jump.

The inner scalings (F to g) are in `inner`; the outer ones (g to a jump) are here.

Legend: t is the noise level of the input, s the level jumped to, sd is sigma_data.
Karras et al. 2022 (EDM), Song et al. 2023 (CM), Kim et al. 2024 (CTM, arXiv:2310.02279).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from .inner import CM as CM
from .inner import EDM as EDM
from .inner import INNER as INNER
from .inner import Coefficients as Coefficients
from .inner import Ect as Ect
from .inner import Epsilon as Epsilon
from .inner import Inner as Inner
from .inner import LinearFlow as LinearFlow
from .inner import Plain as Plain
from .inner import Score as Score
from .inner import VPrediction as VPrediction
from .noise_embeddings import (
    NoiseEmbedding,
    c_noise,
    c_noise_to,
    check_noise_embedding,
    embedding_from_json,
    embedding_to_json,
)
from .registry import Registry
from .sigmas import SIGMA_MIN


class Outer(Protocol):
    """G = a(t, s) x + b(t, s) g, and the denoised image as g + e(t) x."""

    def coefficients(self, sigma: Tensor, sigma_to: Tensor, sigma_data: float) -> Coefficients:
        """(a, b), shape of `sigma`."""
        ...

    def denoised_offset(self, sigma: Tensor, sigma_data: float) -> Tensor | None:
        """e(t), or None where the denoised image is g itself."""
        ...


@dataclass(frozen=True)
class Euler:
    """G = (s/t) x + (1 - s/t) g, the published CTM parametrisation. Source: CTM, Eq. 5.

    With the inner `LinearFlow` it is the flow map of the linear path: MeanFlow and AYF.
    """

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


OUTER = Registry(
    "outer parametrisation",
    {
        "euler": "ctm_fast.precond:Euler",
        "variance": "ctm_fast.precond:Variance",
        "euler_variance_mixed": "ctm_fast.precond:EulerVarianceMixed",
    },
)


@dataclass(frozen=True)
class Preconditioning:
    """The choices that turn a network F(c_in x, c_noise(t), c_noise(s)) into D and G."""

    inner: Inner = field(default_factory=EDM)  # how F becomes g
    outer: Outer = field(default_factory=Euler)  # how g becomes a jump
    noise_embedding: NoiseEmbedding = "quarter_log"  # see `noise_embeddings`

    def __post_init__(self) -> None:
        check_noise_embedding(self.noise_embedding)
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data must be positive, got {self.sigma_data}")

    @property
    def sigma_data(self) -> float:
        """Standard deviation of the data that the scalings assume."""
        return self.inner.sigma_data

    def c_in(self, sigma: Tensor) -> Tensor:
        """Factor on the network's input, shape of `sigma`."""
        return self.inner.c_in(sigma)

    def c_noise(self, sigma: Tensor) -> Tensor:
        """What the network is told about a noise level, shape of `sigma`."""
        return c_noise(self.noise_embedding, sigma)

    def c_noise_to(self, told: Tensor, told_to: Tensor) -> Tensor:
        """What the network is told about a destination, given `c_noise` of both levels."""
        return c_noise_to(self.noise_embedding, told, told_to)

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

    def velocity_coefficients(self, sigma: Tensor) -> Coefficients:
        """(a, b) with u = a x + b F, the average velocity that jumps from t to s; shape of `sigma`.

        u moves the linear path z = x/(1 + t), tau = t/(1 + t): z_s = z + (tau_s - tau) u. With
        the outer `Euler` a and b depend on t alone, whatever the inner scalings: every such model
        is a flow map. It cancels for small t: compute it in float64.

        Raises:
            ValueError: for another outer parametrisation.
        """
        if not isinstance(self.outer, Euler):
            raise ValueError(
                f"a flow map needs the outer parametrisation Euler(), got {self.outer}"
            )
        return self.inner.velocity(sigma)

    def even_sigmas(self, sigma_max: float, sigma_min: float, steps: int) -> Tensor | None:
        """Levels of steps of equal length in the time of the linear path, (steps + 1,) float64.

        Decreasing. None where the network is not of that path.
        """
        if not isinstance(self.inner, LinearFlow):
            return None
        ends = torch.tensor([sigma_max, sigma_min], dtype=torch.float64)
        # Of a time near 1 the distance to 1 keeps its digits.
        first, last = 1 / (1 + ends)
        kept = torch.lerp(first, last, torch.linspace(0, 1, steps + 1, dtype=torch.float64))
        levels = (1 - kept) / kept
        levels[0], levels[-1] = ends
        return levels

    def to_json(self) -> dict[str, Any]:
        """JSON form, read back by `from_json`."""
        return {
            "inner": INNER.to_json(self.inner),
            "outer": OUTER.to_json(self.outer),
            "noise_embedding": embedding_to_json(self.noise_embedding),
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
            embedding_from_json(data["noise_embedding"]),
        )
