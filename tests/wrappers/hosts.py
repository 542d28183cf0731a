"""Callables of other codebases around exact functions of Gaussian data, one per convention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ctm_fast.noise_embeddings import DiscreteTime

from ..analytic import Gaussian

DATA, SD = Gaussian(0.1, 0.7), 0.6
TABLE = DiscreteTime().sigmas


def column(t: Tensor) -> Tensor:
    return t.reshape(-1, 1, 1, 1)


class Host:
    """One codebase: its time, its states, and exact functions in its terms.

    Written from the definitions of the paths alone: alpha and beta with y = alpha x0 + beta n, and
    their derivatives.
    """

    def __init__(
        self,
        sigma: Callable[[Tensor], Tensor],
        time: Callable[[Tensor], Tensor],
        path: Callable[[Tensor], tuple[Tensor, Tensor]],
        slopes: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
        unit: float = 1.0,
    ) -> None:
        self.sigma, self.time, self.path, self.slopes, self.unit = sigma, time, path, slopes, unit

    def _ours(self, y: Tensor, t: Tensor) -> Tensor:
        return y / column(self.path(t)[0])

    def denoiser(self, y: Tensor, t: Tensor) -> Tensor:
        """E[x0 | y]."""
        return DATA(self._ours(y, t), self.sigma(t))

    def epsilon(self, y: Tensor, t: Tensor) -> Tensor:
        """E[n | y]."""
        alpha, beta = self.path(t)
        return (y - column(alpha) * self.denoiser(y, t)) / column(beta)

    def v(self, y: Tensor, t: Tensor) -> Tensor:
        """alpha n - beta x0 of a variance-preserving path."""
        alpha, beta = self.path(t)
        return column(alpha) * self.epsilon(y, t) - column(beta) * self.denoiser(y, t)

    def velocity(self, y: Tensor, t: Tensor) -> Tensor:
        """E[dy/dt | y] / unit, with y / unit as input."""
        assert self.slopes is not None
        y = y * self.unit
        alpha, beta = self.slopes(t)
        slope = column(alpha) * self.denoiser(y, t) + column(beta) * self.epsilon(y, t)
        return slope / self.unit

    def trajectory(self, y: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """State at s on the trajectory through (y, t)."""
        there = DATA.jump(self._ours(y, t), self.sigma(t), self.sigma(s))
        return there * column(self.path(s)[0])

    def consistency(self, y: Tensor, t: Tensor) -> Tensor:
        """Image at the end of the trajectory."""
        return DATA.jump(self._ours(y, t), self.sigma(t), 0.0)

    def average_velocity(self, y: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """(y_t - y_r)/(t - r)/unit with y / unit as input; the velocity where t = r."""
        state = y * self.unit
        same = column(t == r)
        gap = torch.where(same, torch.ones_like(column(t)), column(t - r))
        mean = (state - self.trajectory(state, t, r)) / gap / self.unit
        return torch.where(same, self.velocity(y, t), mean)


def _vp(t: Tensor) -> tuple[Tensor, Tensor]:
    sigma = table_sigma(t)
    alpha = 1 / (1 + sigma**2).sqrt()
    return alpha, alpha * sigma


def table_sigma(t: Tensor) -> Tensor:
    """DDPM's noise level at a real index, ln(sigma) linear in between."""
    logs, below = TABLE.log().to(t.dtype), t.floor().long().clamp(0, 998)
    return (logs[below] + (t - below) * (logs[below + 1] - logs[below])).exp()


HOSTS = {
    "edm": Host(
        lambda t: t,
        lambda s: s,
        lambda t: (torch.ones_like(t), t),
        lambda t: (torch.zeros_like(t), torch.ones_like(t)),
    ),
    "flow": Host(
        lambda t: t / (1 - t),
        lambda s: s / (1 + s),
        lambda t: (1 - t, t),
        lambda t: (-torch.ones_like(t), torch.ones_like(t)),
    ),
    "flow_matching": Host(
        lambda t: (1 - t) / t,
        lambda s: 1 / (1 + s),
        lambda t: (t, 1 - t),
        lambda t: (torch.ones_like(t), -torch.ones_like(t)),
    ),
    "trigflow": Host(
        lambda t: SD * t.tan(),
        lambda s: (s / SD).atan(),
        lambda t: (t.cos(), SD * t.sin()),
        lambda t: (-t.sin(), SD * t.cos()),
        unit=SD,
    ),
    "diffusers": Host(table_sigma, lambda s: s, _vp),
}
VELOCITY_TIMES = ("edm", "flow", "flow_matching", "trigflow")


class ADM:
    """Raw networks of ADM codebases whose scaled outputs are the exact functions."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, x: Tensor, timesteps: Tensor, y: Any = None, s: Any = None) -> Tensor:
        t = (timesteps.double() / 250).exp().to(x.dtype)
        noisy = x * column((t**2 + SD**2).sqrt())
        c_skip, c_out = SD**2 / (t**2 + SD**2), t * SD / (t**2 + SD**2).sqrt()
        if self.kind == "denoiser":
            image = DATA(noisy, t)
        elif self.kind == "consistency":
            c_skip = SD**2 / ((t - 0.002) ** 2 + SD**2)
            c_out = (t - 0.002) * SD / (t**2 + SD**2).sqrt()
            image = DATA.jump(noisy, t, 0.002)
        else:
            image = DATA.g(noisy, t, (s.double() / 250).exp().to(x.dtype))
        return (image - column(c_skip) * noisy) / column(c_out)


class Net(nn.Module):
    """A network with dropout that remembers what it was given."""

    def __init__(self, classes: int = 0, channels: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 4, 3, padding=1)
        self.last = nn.Conv2d(4, channels, 3, padding=1)
        self.classes = nn.Linear(max(classes, 1), 4, bias=False)
        self.dropout = nn.Dropout(0.5)
        self.seen: list[Any] = []

    def body(self, x: Tensor, t: Tensor, weights: Tensor | None = None) -> Tensor:
        shift = column(t.to(x.dtype)).tanh()
        hidden = self.first(x) + shift
        if weights is not None:
            hidden = hidden + self.classes(weights)[:, :, None, None]
        return self.last(self.dropout(hidden.tanh()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.seen.append((x.dtype, t.dtype, tuple(t.shape), self.training))
        return self.body(x, t)


class OneHotNet(Net):
    """EDM's way: one-hot class_labels."""

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        self.seen.append(class_labels)
        return self.body(x, sigma, class_labels)


class IntegerNet(Net):
    """The others' way: integers y."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.seen.append(y)
        weights = nn.functional.one_hot(y, self.classes.in_features).to(x.dtype)
        return self.body(x, t, weights)


def seeded(cls: type[Net], *args: Any) -> Net:
    """A network with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cls(*args)
