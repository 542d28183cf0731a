"""Door of locuslab/ect: an object to use as `generator_fn`. Geng et al. 2024, arXiv:2406.14548."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..sampler.gamma import sample_gamma
from ..sampler.step_tables import checked_sigmas
from .edm import rounded
from .hosts import kind_of, refuse, sampling
from .noise import each

KEYWORDS = ("net", "latents", "class_labels", "t_max", "mid_t", "randn_like")


@dataclass(frozen=True)
class ECTGenerator:
    """`generator_fn` of ct_eval.py and of the metrics: generator_fn(net, latents, class_labels).

    A consistency model is called at t_max and at every level of mid_t, with noise t_next added to
    what it answers in between, as ECT does. A trajectory model jumps by gamma-sampling instead and
    ends at its sigma_min.

    Raises:
        ValueError: for a kind that does not jump or a gamma outside [0, 1].
    """

    kind: str | None = None  # "consistency" or "trajectory"; None: if the net says it
    gamma: float = 0.0  # share of fresh noise per jump in [0, 1], trajectory models only
    mid_t: tuple[float, ...] = ()  # levels between t_max and the end, decreasing

    def __post_init__(self) -> None:
        if self.kind == "denoiser":
            raise ValueError("kind='denoiser' does not jump; use ctm_fast.integrations.edm")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma is {self.gamma}; it must lie in [0, 1]")
        object.__setattr__(self, "mid_t", tuple(float(t) for t in self.mid_t))

    def __call__(
        self,
        net: Any,
        latents: Tensor,
        class_labels: Tensor | None = None,
        t_max: float = 80.0,
        mid_t: Iterable[float] | None = None,
        *,
        randn_like: Callable[[Tensor], Tensor] = torch.randn_like,
        **unknown: Any,
    ) -> Tensor:
        """Images (batch, C, H, W) float64, not clamped.

        Args:
            net: called as net(x, sigma, class_labels); in eval mode meanwhile, where ECT's
                networks have another boundary than in training mode.
            latents: (batch, C, H, W) noise of variance 1.
            class_labels: passed to the network.
            t_max: first level.
            mid_t: further levels, decreasing; None: those given to the constructor.
            randn_like: draws the noise between calls; the global generator by default, as in ECT.
            unknown: anything else is an error.

        Raises:
            ValueError: for unknown keywords, levels that do not decrease, or a model that does
                not jump.
        """
        refuse("ECTGenerator", unknown, KEYWORDS)
        kind = kind_of(net, self.kind)
        if kind == "denoiser":
            raise ValueError("a denoiser does not jump; use ctm_fast.integrations.edm")
        middle = self.mid_t if mid_t is None else tuple(float(t) for t in mid_t)
        levels = checked_sigmas([float(t_max), *middle, 0.0], "t_max, mid_t and the end")
        sigmas = rounded(getattr(net, "round_sigma", None), levels)
        x = latents.to(torch.float64) * sigmas[0]
        with sampling(net):
            if kind == "trajectory":
                extra = {} if class_labels is None else {"labels": class_labels}
                ends = [*sigmas[:-1], float(net.sigma_min)]
                noise = each(randn_like, x)
                return sample_gamma(
                    net, x, ends, extra, disable=True, gamma=self.gamma, noise_sampler=noise
                )
            # Not `sample_cm_multistep`: ECT adds t_next, not sqrt(t_next^2 - sigma_min^2).
            for i, sigma in enumerate(sigmas[:-1]):
                if i > 0:
                    x = x + sigma * randn_like(x)
                x = net(x, x.new_full((len(x),), sigma), class_labels).to(torch.float64)
        return x
