"""Data whose denoiser, jump and likelihood are known: Gaussians and Gaussian mixtures.

Legend: x is an image at noise level t, s the level jumped to, g CTM's inner function with
G(x, t, s) = (s/t) x + (1 - s/t) g(x, t, s).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ctm_fast.denoiser import Denoiser
from ctm_fast.precond import EDM, Preconditioning


def column(level: Tensor | float, x: Tensor) -> Tensor:
    """Noise level as (batch, 1, ..., 1), or a scalar tensor."""
    level = torch.as_tensor(level, dtype=x.dtype)
    return level.reshape(-1, *[1] * (x.ndim - 1)) if level.ndim else level


def log_normal_density(x: Tensor, mean: Tensor | float, var: Tensor | float) -> Tensor:
    """log N(x; mean, var I) summed over all but the first axis, (batch,)."""
    var = torch.as_tensor(var, dtype=x.dtype)
    return (-0.5 * ((x - mean) ** 2 / var + (2 * math.pi * var).log())).flatten(1).sum(1)


@dataclass(frozen=True)
class Gaussian:
    """Data N(mean, std^2 I) of any shape."""

    mean: float | Tensor = 0.0
    std: float = 0.5

    def __call__(self, x: Tensor, t: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """E[x0 | x]."""
        keep = self.std**2 / (self.std**2 + column(t, x) ** 2)
        return self.mean + keep * (x - self.mean)

    def jump(
        self, x: Tensor, t: Tensor | float, s: Tensor | float, labels: Tensor | None = None
    ) -> Tensor:
        """Point at s on the ODE trajectory through (x, t)."""
        var, t, s = self.std**2, column(t, x), column(s, x)
        return self.mean + (x - self.mean) * ((var + s**2) / (var + t**2)).sqrt()

    def g(self, x: Tensor, t: Tensor | float, s: Tensor | float) -> Tensor:
        """What a CTM's g must be, without cancellation as s -> t."""
        var, t, s = self.std**2, column(t, x), column(s, x)
        ratio = ((var + s**2) / (var + t**2)).sqrt()
        return self.mean + (x - self.mean) * var * (t + s) / ((var + t**2) * (t * ratio + s))

    def score(self, x: Tensor, t: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Gradient of the log density at noise level t."""
        return -(x - self.mean) / (self.std**2 + column(t, x) ** 2)

    def log_prob(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Log density at noise level t, (batch,) nats."""
        return log_normal_density(x, self.mean, self.std**2 + column(t, x) ** 2)


@dataclass(frozen=True)
class Mixture:
    """Data sum_k weights[k] N(means[k], stds[k]^2 I); points are (batch, dimensions)."""

    weights: Tensor  # (components,)
    means: Tensor  # (components, dimensions)
    stds: Tensor  # (components,)

    def _parts(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        var = self.stds**2 + torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1) ** 2
        squares = ((x[:, None] - self.means) ** 2).sum(-1)
        norm = x.shape[1] * (2 * math.pi * var).log()
        return var, self.weights.log() - 0.5 * (squares / var + norm), x[:, None] - self.means

    def __call__(self, x: Tensor, t: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """E[x0 | x], (batch, dimensions)."""
        var, log_joint, offset = self._parts(x, t)
        means = self.means + (self.stds**2 / var)[..., None] * offset
        return (log_joint.softmax(1)[..., None] * means).sum(1)

    def score(self, x: Tensor, t: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Gradient of the log density at noise level t, (batch, dimensions)."""
        var, log_joint, offset = self._parts(x, t)
        return -(log_joint.softmax(1)[..., None] * offset / var[..., None]).sum(1)

    def log_prob(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Log density at noise level t, (batch,) nats."""
        return self._parts(x, t)[1].logsumexp(1)

    def tails(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Probability below and above x at level t; one dimension, (batch,) each."""
        var, _, offset = self._parts(x, t)
        z = offset[..., 0] / (2 * var).sqrt()
        return (self.weights * torch.stack([(-z).erfc(), z.erfc()]) / 2).sum(-1).unbind()

    def jump(self, x: Tensor, t: Tensor | float, s: Tensor | float) -> Tensor:
        """The x_s with the same quantile as x, (batch, 1): the exact jump in one dimension."""
        below, above = self.tails(x, t)
        spread = 40 * (float(torch.as_tensor(s).max()) + float(self.stds.max()))
        low = torch.full_like(x, float(self.means.min()) - spread)
        high = torch.full_like(x, float(self.means.max()) + spread)
        for _ in range(80):
            middle = (low + high) / 2
            left, right = self.tails(middle, s)
            # The smaller tail keeps its relative precision.
            move_up = torch.where(below < above, left < below, right > above)[:, None]
            low, high = torch.where(move_up, middle, low), torch.where(move_up, high, middle)
        return (low + high) / 2


class GaussianNet(nn.Module):
    """Network that makes `Denoiser(net)` the exact denoiser and the exact jump of a Gaussian.

    `destination=False` gives a teacher. `calls` and `rows` count network calls and images. The
    output passes through `last_layer`, an identity convolution, so gradients have somewhere to go.
    """

    label_dim = 0
    augment_dim = 0

    def __init__(
        self,
        data: Gaussian | None = None,
        channels: int = 1,
        resolution: int = 4,
        destination: bool = True,
        sigma_data: float = 0.5,
    ) -> None:
        super().__init__()
        self.data, self.inner = data or Gaussian(), EDM(sigma_data)
        self.img_channels, self.img_resolution = channels, resolution
        self.has_destination = destination
        self.last_layer = nn.Conv2d(channels, channels, 1)
        nn.init.dirac_(self.last_layer.weight)
        nn.init.zeros_(self.last_layer.bias)
        self.calls = self.rows = 0

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        c_noise_to: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """F such that c_skip x + c_out F is the exact g."""
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        t = (4 * c_noise.to(x.dtype)).exp()
        s = t if c_noise_to is None else (4 * c_noise_to.to(x.dtype)).exp()
        noisy = x * column((t**2 + self.inner.sigma_data**2).sqrt(), x)
        c_skip, c_out = self.inner.coefficients(t)
        F = (self.data.g(noisy, t, s) - column(c_skip, x) * noisy) / column(c_out, x)
        return self.last_layer(F)

    def denoiser(self, **kwargs: object) -> Denoiser:
        """This network with its preconditioning."""
        return Denoiser(self, Preconditioning(self.inner), **kwargs)  # type: ignore[arg-type]


class ConstantNet(nn.Module):
    """Network whose output is one number; 0 gives the exact denoiser of N(0, sigma_data^2 I).

    `number` is a parameter; `calls` and `rows` count network calls and images.
    """

    img_channels, img_resolution, label_dim, augment_dim = 1, 4, 0, 0

    def __init__(self, number: float = 0.0, destination: bool = False) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.tensor(number))
        self.has_destination = destination
        self.calls = self.rows = 0

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        c_noise_to: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """The number at every pixel, shape of x."""
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        return self.number.to(x.dtype).expand_as(x)
