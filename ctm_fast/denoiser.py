"""`Denoiser`: a network with its preconditioning, in units of sigma."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .kernels.jump import jump
from .precond import EDM, Preconditioning
from .sigmas import SIGMA_MAX, SIGMA_MIN, check_sigma_range

KINDS = ("denoiser", "consistency", "trajectory")


def per_sample(sigma: Tensor | float, x: Tensor) -> Tensor:
    """Noise level as one number per image: (batch,), in x's dtype and on its device.

    Raises:
        ValueError: unless `sigma` is a number or has one entry, or one per image.
    """
    if not isinstance(sigma, Tensor):
        return x.new_full((len(x),), sigma)
    levels = sigma.to(device=x.device, dtype=x.dtype)
    if levels.numel() == 1:
        return levels.reshape(1).expand(len(x))
    if levels.shape != (len(x),):
        raise ValueError(f"sigma has shape {tuple(levels.shape)}; need () or ({len(x)},)")
    return levels


def combined(x: Tensor, F: Tensor, P: Tensor, Q: Tensor) -> Tensor:
    """P x + Q F, shape and dtype of x; see `kernels.jump`."""
    # The U-Nets answer in channels-last order; the fused jump needs both images in one.
    mixed = x.ndim == 4 and x.stride() != F.stride()
    if mixed and F.is_contiguous(memory_format=torch.channels_last):
        x = x.contiguous(memory_format=torch.channels_last)
    return jump(x, F, P, Q)


class Denoiser(nn.Module):
    """Network plus preconditioning.

    `denoiser(x, sigma)` is E[image | x]; `.jump(x, sigma, sigma_to)` moves along the
    probability-flow ODE in one network call.

    Args:
        net: called as net(x, c_noise, c_noise_to=None, labels=None); see `ctm_fast.models`.
        precond: scalings; `Preconditioning(EDM(sigma_data=0.5))` if not given.
        kind: "denoiser" (only denoises), "consistency" (jumps to sigma_min only) or "trajectory"
            (jumps anywhere). By default trajectory if the network has a destination embedding.
        sigma_min: smallest noise level that the network knows, > 0.
        sigma_max: largest one.
        dtype: the network computes in it (float16 or bfloat16 under autocast); its inputs and
            outputs stay in the dtype of x. None: the dtype of its weights.

    Raises:
        ValueError: for an unknown kind, a trajectory network without destination embedding, or a
            bad sigma range.

    Source: Karras et al. 2022, Eq. 7; Kim et al. 2024 (CTM), Eq. 5.
    """

    def __init__(
        self,
        net: nn.Module,
        precond: Preconditioning | None = None,
        *,
        kind: str | None = None,
        sigma_min: float = SIGMA_MIN,
        sigma_max: float = SIGMA_MAX,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sigma_range(sigma_min, sigma_max)
        has_destination = bool(getattr(net, "has_destination", False))
        kind = kind or ("trajectory" if has_destination else "denoiser")
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r}; choose from {KINDS}")
        if kind == "trajectory" and not has_destination:
            raise ValueError(
                "kind='trajectory' needs a network with a destination embedding; this one has "
                "none, so it is kind='denoiser' or kind='consistency'"
            )
        self.net = net
        self.precond = precond or Preconditioning(EDM())
        self.kind = kind
        self.sigma_min = float(sigma_min)
        self.sigma_max = float(sigma_max)
        self.dtype = dtype
        self.notes: tuple[str, ...] = ()  # what was assumed when it was loaded

    def forward(
        self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None, **extra: Any
    ) -> Tensor:
        """E[image | x]: (batch, C, H, W), dtype of x.

        Args:
            x: (batch, C, H, W) noisy images, float32 or float64.
            sigma: noise level, a number or (batch,), > 0.
            labels: (batch,) int64 classes, (batch, classes) weights, or None.
            extra: passed on to `network`.
        """
        sigma = per_sample(sigma, x)
        destination = sigma if self.kind == "trajectory" else None
        P, Q = self.precond.denoise_coefficients(sigma)
        return combined(x, self.network(x, sigma, destination, labels, **extra), P, Q)

    def jump(
        self,
        x: Tensor,
        sigma: Tensor | float,
        sigma_to: Tensor | float,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Point at `sigma_to` on the ODE trajectory through (x, sigma): G(x, t, s).

        Args:
            x: (batch, C, H, W) noisy images, float32 or float64.
            sigma: noise level of x, a number or (batch,), > 0.
            sigma_to: destination, 0 < sigma_to <= sigma; sigma_min for a consistency model.
            labels: as in `forward`.

        Raises:
            ValueError: if the model only denoises, or if a consistency model should jump elsewhere
                than to its sigma_min (not looked at for levels on another device than the CPU).
        """
        sigma, sigma_to = per_sample(sigma, x), per_sample(sigma_to, x)
        if self.kind == "trajectory":
            P, Q = self.precond.jump_coefficients(sigma, sigma_to)
            return combined(x, self.network(x, sigma, sigma_to, labels), P, Q)
        if self.kind == "consistency":
            low = torch.full_like(sigma_to, self.sigma_min)
            if sigma_to.device.type == "cpu" and not torch.allclose(sigma_to, low, rtol=1e-4):
                raise ValueError(
                    f"a consistency model jumps to its sigma_min={self.sigma_min} only, got "
                    f"sigma_to={sigma_to.tolist()}"
                )
            return self(x, sigma, labels)
        raise ValueError(
            "a model of kind 'denoiser' cannot jump; use an ODE sampler (method='heun'), or "
            "distil it into a trajectory model first"
        )

    def score(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Gradient of log p_sigma at x: (denoised - x) / sigma^2. Source: CTM, Section 2."""
        denoised = self(x, sigma, labels)
        sigma = per_sample(sigma, x).reshape(-1, *[1] * (x.ndim - 1))
        return (denoised - x) / sigma**2

    def network(
        self,
        x: Tensor,
        sigma: Tensor,
        sigma_to: Tensor | None = None,
        labels: Tensor | None = None,
        scaled: Tensor | None = None,
        **extra: Any,
    ) -> Tensor:
        """Raw output F(c_in x, c_noise(t), c_noise_to(t, s)) in the network's dtype.

        `sigma` and `sigma_to` are (batch,); `sigma_to` is None without destination embedding.
        `scaled` is c_in x where the caller already has it, for example from `add_noise`.
        """
        if scaled is None:
            scaled = self.precond.c_in(sigma).reshape(-1, *[1] * (x.ndim - 1)) * x
        told, told_to = self.precond.c_noise(sigma), None
        if sigma_to is not None:
            told_to = self.precond.c_noise_to(told, self.precond.c_noise(sigma_to))
        return self.raw(scaled, told, told_to, labels, **extra)

    def raw(
        self,
        scaled: Tensor,
        c_noise: Tensor | None = None,
        c_noise_to: Tensor | None = None,
        labels: Tensor | None = None,
        **extra: Any,
    ) -> Tensor:
        """Network on an input that is already scaled by c_in, cast to the network's dtype.

        `extra` may be what the network takes besides, for example `modulation` instead of levels.
        """
        return self._in_own_dtype(self.net, scaled, c_noise, c_noise_to, labels, **extra)

    def features(
        self, scaled: Tensor, c_noise: Tensor, labels: Tensor | None = None
    ) -> list[Tensor]:
        """The encoder's activations, one (batch, C_i, H_i, W_i) per resolution.

        Args:
            scaled: (batch, C, H, W) images times c_in.
            c_noise: (batch,) noise embedding input.
            labels: as in `forward`.

        Raises:
            ValueError: for a network that does not give them.
        """
        features: Callable[..., list[Tensor]] | None = getattr(self.net, "features", None)
        if features is None:
            raise ValueError(
                f"a {type(self.net).__name__} has no encoder features; use a distance that "
                "compares pixels, for example PseudoHuber, and other backbones of a discriminator"
            )
        told: dict[str, Tensor] = {}
        if self.kind == "trajectory":  # as where it denoises, it arrives where it is
            told["c_noise_to"] = self.precond.c_noise_to(c_noise, c_noise)
        return self._in_own_dtype(features, scaled, c_noise, labels, **told)

    def _in_own_dtype(
        self, function: Callable[..., Any], scaled: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        own = self._input_dtype() or scaled.dtype
        if self.dtype is None or self.dtype == own:
            return function(scaled.to(own), *args, **kwargs)
        # A weight that is cast without gradient must not be found again by a call with gradient.
        cached = torch.is_grad_enabled()
        with torch.autocast(scaled.device.type, dtype=self.dtype, cache_enabled=cached):
            return function(scaled.to(own), *args, **kwargs)

    def _input_dtype(self) -> torch.dtype | None:
        """What the network wants its images in; None: it has no weights and takes any."""
        weight = next(self.net.parameters(), None)
        return None if weight is None else weight.dtype

    def even_sigmas(self, steps: int) -> Tensor | None:
        """Levels of `steps` steps as long as each other in the model's own time; see `Sampler`.

        (steps + 1,) float64, decreasing from sigma_max to sigma_min. None for a model whose steps
        are spaced otherwise.
        """
        return self.precond.even_sigmas(self.sigma_max, self.sigma_min, steps)

    @property
    def sigma_data(self) -> float:
        """Standard deviation of the data that the scalings assume."""
        return self.precond.sigma_data

    @property
    def img_channels(self) -> int:
        """Channels of an image."""
        return int(self.net.img_channels)  # type: ignore[arg-type]

    @property
    def img_resolution(self) -> int:
        """Height and width of an image, in pixels."""
        return int(self.net.img_resolution)  # type: ignore[arg-type]

    @property
    def label_dim(self) -> int:
        """Number of classes; 0 for an unconditional model."""
        return int(self.net.label_dim)  # type: ignore[arg-type]

    @property
    def last_layer(self) -> nn.Conv2d:
        """Layer whose weight gradient measures a loss term's size (adaptive weights)."""
        return self.net.last_layer  # type: ignore[return-value]

    def extra_repr(self) -> str:
        """Kind and sigma range."""
        return f"kind={self.kind}, sigma=[{self.sigma_min}, {self.sigma_max}], {self.precond}"
