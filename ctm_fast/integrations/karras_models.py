"""Networks of openai/consistency_models and sony/ctm as the samplers call them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..denoiser import Denoiser
from ..solvers.base import Denoise, Level, expand, slope
from .hosts import kind_of


class KarrasModel:
    """The host's network behind its own preconditioning, or a `Denoiser`, with clamped answers.

    Args:
        diffusion: has .denoise(model, x, sigma, **kwargs) -> (output, denoised), or
            .get_denoised_and_G(model, x, t, s, ctm, teacher, **kwargs) -> (denoised, G).
        model: the network, or a `Denoiser`.
        model_kwargs: passed to the network.
        clip: clamp denoised images and points landed on to [-1, 1].
        ctm: whether the network takes a second time.
        teacher: passed to the network of a host with two times.
        sigma_min: where the jumps of a consistency model end.

    Raises:
        ValueError: if nothing says how the network is called, or for options of a `Denoiser`
            other than y.
    """

    def __init__(
        self,
        diffusion: Any,
        model: Any,
        model_kwargs: Mapping[str, Any],
        clip: bool,
        ctm: bool,
        teacher: bool,
        sigma_min: float,
    ) -> None:
        self.diffusion, self.model, self.extra = diffusion, model, dict(model_kwargs)
        self.clip, self.ctm, self.teacher = clip, ctm, teacher
        self.sigma_min = float(sigma_min)
        self.own = isinstance(model, Denoiser)
        if self.own:
            self.kind = kind_of(model)
            if set(self.extra) - {"y"}:
                raise ValueError(f"a Denoiser takes y only, got {sorted(self.extra)}")
            self.extra = {"labels": self.extra["y"]} if "y" in self.extra else {}
        elif is_two_time(diffusion) or hasattr(diffusion, "denoise"):
            # A host that does not say (distillation=False) leaves it to the choice of sampler.
            only_denoises = getattr(diffusion, "distillation", None) is False or teacher
            self.kind = "trajectory" if ctm else "denoiser" if only_denoises else "consistency"
        else:
            raise ValueError(
                f"diffusion ({type(diffusion).__name__}) has neither denoise nor "
                "get_denoised_and_G, and the model is no ctm_fast.Denoiser"
            )

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoised images, shape and dtype of x."""
        if self.own:
            denoised = self.model(x, sigma, **self.extra)
        elif is_two_time(self.diffusion):
            s = None if self.teacher and not self.ctm else sigma
            denoised = self._both(x, sigma, s)[0]
        else:
            denoised = self.diffusion.denoise(self.model, x, sigma, **self.extra)[1]
        return self._clamped(denoised.to(x.dtype))

    def jump(self, x: Tensor, sigma: Tensor, sigma_to: Tensor) -> Tensor:
        """Images at `sigma_to`, shape and dtype of x."""
        if self.own:
            landed = self.model.jump(x, sigma, sigma_to, **self.extra)
        elif is_two_time(self.diffusion):
            # A consistency model of this host has no second time to be told.
            landed = self._both(x, sigma, sigma_to if self.ctm else None)[1]
        else:
            return self(x, sigma)
        return self._clamped(landed.to(x.dtype))

    def _both(self, x: Tensor, t: Tensor, s: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.diffusion.get_denoised_and_G(
            self.model, x, t, s, self.ctm, self.teacher, **self.extra
        )

    def _clamped(self, images: Tensor) -> Tensor:
        return images.clamp(-1, 1) if self.clip else images


def is_two_time(diffusion: Any) -> bool:
    """Whether the host is sony/ctm."""
    return hasattr(diffusion, "get_denoised_and_G")


@dataclass(frozen=True)
class KarrasDPM:
    """Midpoint step; the midpoint is the mean of the ends in sigma ** (1/3).

    Source: openai/consistency_models, `sampler="dpm"`; Lu et al. 2022, arXiv:2206.00927.
    """

    order: ClassVar[int] = 2
    nfe: ClassVar[int] = 2

    def step(
        self,
        denoiser: Denoise,
        x: Tensor,
        sigma: Level,
        sigma_to: Level,
        labels: Tensor | None = None,
    ) -> Tensor:
        """x at `sigma_to`; x (batch, ...), levels are numbers or (batch,)."""
        middle = ((sigma ** (1 / 3) + sigma_to ** (1 / 3)) / 2) ** 3
        halfway = x + expand(middle - sigma, x) * slope(denoiser, x, sigma, labels)
        return x + expand(sigma_to - sigma, x) * slope(denoiser, halfway, middle, labels)
