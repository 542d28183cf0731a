"""Preconditioning, jumps, the teacher's solve and the sampler, kernel by kernel as published.

Written from the formulas of Karras et al. 2022 and Kim et al. 2024 (CTM). Every call computes its
scalings again from the noise levels. On CIFAR-10 the published teacher is wrapped twice, so that
the scalings are applied, undone and applied again (`undone`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Net = Callable[..., Tensor]  # called as net(scaled, c_noise, c_noise_to, labels)
TINY = 1e-44


class OfficialModel:
    """A network with EDM's inner scalings and CTM's jump, in plain PyTorch.

    Args:
        net: as `ctm_fast.models.UNet` is called; its result may have another dtype than x.
        adm: noise levels as 250 ln t; else ln t / 4, derived from the former as published.
        sigma_data: standard deviation of the data.
        undone: the teacher's scalings are undone and redone, as published for CIFAR-10.
    """

    def __init__(
        self, net: Net, *, adm: bool = False, sigma_data: float = 0.5, undone: bool | None = None
    ) -> None:
        self.net, self.adm, self.sigma_data = net, adm, sigma_data
        self.undone = not adm if undone is None else undone

    def denoise(self, x: Tensor, t: Tensor, labels: Tensor | None, to: Tensor | None) -> Tensor:
        """g(x, t, s) for s = `to`, or the network without destination for None: shape of x."""
        F = self._network(x * self._wide(self._c_in(t), x), t, to, labels).to(x.dtype)
        c_skip, c_out = self._scalings(t)
        return self._wide(c_out, x) * F + self._wide(c_skip, x) * x

    def jump(self, x: Tensor, t: Tensor, s: Tensor, labels: Tensor | None = None) -> Tensor:
        """G(x, t, s) = s/t x + (1 - s/t) g(x, t, s), shape of x. Source: CTM, Eq. 5."""
        g = self.denoise(x, t, labels, s)
        return self._wide(1 - s / t, x) * g + self._wide(s / t, x) * x

    def teach(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The teacher's E[image | x], shape of x."""
        if not self.undone:
            return self.denoise(x, t, labels, None)
        c_in = self._wide(self._c_in(t), x)
        c_skip, c_out = (self._wide(c, x) for c in self._scalings(t))
        inside = (x * c_in) / c_in
        F = self._network(inside * c_in, t, None, labels).to(x.dtype)
        denoised = c_skip * inside + c_out * F
        F = (denoised - c_skip * inside) / c_out
        return c_out * F + c_skip * x

    @torch.no_grad()
    def solve(
        self, x: Tensor, sigmas: Tensor, start: Tensor, num_steps: int, labels: Tensor | None = None
    ) -> Tensor:
        """x after `num_steps` Heun steps of the teacher from the levels sigmas[start]."""
        for m in range(num_steps):
            t, t_to = sigmas[start + m], sigmas[start + m + 1]
            d = (x - self.teach(x, t, labels)) / self._wide(t, x)
            x_to = x + d * self._wide(t_to - t, x)
            d_to = (x_to - self.teach(x_to, t_to, labels)) / self._wide(t_to, x)
            x = x + (d + d_to) * self._wide((t_to - t) / 2, x)
        return x

    @torch.no_grad()
    def sample(self, x: Tensor, sigmas: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images in [-1, 1] by one jump between neighbouring levels (CTM's exact sampler).

        Args:
            x: (batch, C, H, W) noise, scaled by sigmas[0].
            sigmas: (steps + 1,) decreasing levels.
            labels: (batch,) or None.
        """
        ones = x.new_ones(len(x))
        for i in range(len(sigmas) - 1):
            x = self.jump(x, sigmas[i] * ones, sigmas[i + 1] * ones, labels)
        return x.clamp(-1, 1)

    def _network(
        self, scaled: Tensor, t: Tensor, s: Tensor | None, labels: Tensor | None
    ) -> Tensor:
        to = None if s is None else self._c_noise(s)
        return self.net(scaled, self._c_noise(t), to, labels)

    def _c_noise(self, t: Tensor) -> Tensor:
        scaled = 250 * (t + TINY).log()
        return scaled if self.adm else ((scaled / 250).exp() - TINY).log() / 4

    def _c_in(self, t: Tensor) -> Tensor:
        return 1 / (t**2 + self.sigma_data**2) ** 0.5

    def _scalings(self, t: Tensor) -> tuple[Tensor, Tensor]:
        total = t**2 + self.sigma_data**2
        return self.sigma_data**2 / total, t * self.sigma_data / total**0.5

    @staticmethod
    def _wide(level: Tensor, x: Tensor) -> Tensor:
        return level.reshape(-1, *[1] * (x.ndim - 1))
