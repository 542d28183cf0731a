"""Gaussian classes: models, classifiers and guided flows in closed form. Points are images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ctm_fast.solvers import Dopri5, solve

from ..analytic import Gaussian, Mixture, column, log_normal_density

MEANS = torch.tensor([[0.6, -0.2], [-0.4, 0.3], [0.1, 0.9]], dtype=torch.float64)


@dataclass
class Classes:
    """Data of equally likely classes N(means[k], std^2 I), in a model's clothes.

    Labels may be classes, weights that are one-hot, or weights of zero, which mean no label: then
    it is the mixture. An image is (channels, size, size) with the mean of its class per channel.
    """

    means: Tensor = field(default_factory=lambda: MEANS)  # (classes, channels)
    std: float = 0.3
    kind: str = "denoiser"
    size: int = 1
    labelled: bool = True
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    calls: int = 0

    @property
    def label_dim(self) -> int:
        return len(self.means) if self.labelled else 0

    @property
    def img_channels(self) -> int:
        return self.means.shape[1]

    @property
    def img_resolution(self) -> int:
        return self.size

    def log_joint(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """log p(x | class, sigma), (batch, classes)."""
        var = self.std**2 + column(sigma, x) ** 2
        rows = [log_normal_density(x, mean, var) for mean in self.shaped(x)]
        return torch.stack(rows, 1)

    def shaped(self, x: Tensor) -> Tensor:
        """(classes, channels, 1, 1) means."""
        return self.means.to(x)[:, :, None, None]

    def mean_given(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None) -> Tensor:
        """Mean of the class of each image, or of the mixture at (x, sigma): (batch, C, 1, 1)."""
        means = self.shaped(x)
        unknown = torch.einsum("bk,kcij->bcij", self.log_joint(x, sigma).softmax(1), means)
        if labels is None or not self.labelled:
            return unknown
        if not labels.is_floating_point():
            return means[labels]
        known = torch.einsum("bk,kcij->bcij", labels.to(x), means)
        return torch.where(column(labels.sum(1), x) > 0, known, unknown)

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        self.calls += 1
        mean = self.mean_given(x, sigma, labels)
        return Gaussian(mean, self.std)(x, sigma)

    def jump(
        self, x: Tensor, sigma: Tensor, sigma_to: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        self.calls += 1
        if labels is not None and self.labelled:
            mean = self.mean_given(x, sigma, labels)
            return Gaussian(mean, self.std).jump(x, sigma, sigma_to)
        assert self.means.shape[1] == 1 and self.size == 1, "the mixture's jump is known in 1-D"
        stds = torch.full((len(self.means),), self.std, dtype=torch.float64)
        data = Mixture(torch.full_like(stds, 1 / len(stds)), self.means, stds)
        landed = data.jump(x[:, :, 0, 0].double(), sigma.double(), sigma_to.double())
        return landed[:, :, None, None].to(x)

    def classifier(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Logits of p(class | x, sigma), (batch, classes): softmax of affine functions of x."""
        return self.log_joint(x, sigma)

    def gradient(self, x: Tensor, sigma: Tensor | float, labels: Tensor) -> Tensor:
        """Gradient of log p(label | x, sigma), in closed form."""
        offset = self.shaped(x)[labels] - self.mean_given(x, sigma, None)
        return offset / (self.std**2 + column(sigma, x) ** 2)


def flow(
    denoise: Callable[[Tensor, float], Tensor], x: Tensor, sigma: float, sigma_to: float
) -> Tensor:
    """End of dx/dsigma = (x - denoise(x, sigma)) / sigma in float64, by an adaptive solver."""

    def denoiser(x: Tensor, sigma: float | Tensor, labels: Tensor | None = None) -> Tensor:
        return denoise(x, sigma)

    return solve(denoiser, x.double(), [sigma, sigma_to], Dopri5(rtol=1e-10, atol=1e-12))


def start(num: int, channels: int = 2, size: int = 1, sigma: float = 80.0) -> Tensor:
    """First states (num, channels, size, size), float64."""
    generator = torch.Generator().manual_seed(3)
    shape = (num, channels, size, size)
    return sigma * torch.randn(shape, generator=generator, dtype=torch.float64)
