"""A mixture in one dimension whose exact consistency map is known, and networks around it.

In one dimension the probability-flow ODE keeps quantiles, so f(x, t) is a quantile map.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ctm_fast.denoiser import Denoiser
from ctm_fast.inner import CM as Boundary
from ctm_fast.losses import Batch, Models, evaluate
from ctm_fast.precond import EDM, Preconditioning
from ctm_fast.rng import stream
from tests.analytic import Mixture, column

LOW, HIGH = 0.002, 80.0
STD = 0.766877  # of the data
DATA = Mixture(
    torch.tensor([0.3, 0.7], dtype=torch.float64),
    torch.tensor([[-1.0], [0.6]], dtype=torch.float64),
    torch.tensor([0.15, 0.25], dtype=torch.float64),
)


def draws(size: int, seed: int = 0) -> Tensor:
    """Images (size, 1, 1, 1) float64 of the mixture."""
    which = (torch.rand(size, generator=stream(seed, 1), dtype=torch.float64) > 0.3).long()
    noise = torch.randn(size, generator=stream(seed, 2), dtype=torch.float64)
    return (DATA.means[which, 0] + DATA.stds[which] * noise).reshape(-1, 1, 1, 1)


def moved(x: Tensor, t: Tensor | float, s: Tensor | float = LOW) -> Tensor:
    """Exact jump of images (batch, 1, 1, 1) from level t to s."""
    return DATA.jump(x.double().reshape(-1, 1), t, s).reshape(x.shape)


def denoised(x: Tensor, t: Tensor) -> Tensor:
    """Exact E[image | x] of images (batch, 1, 1, 1)."""
    return DATA(x.double().reshape(-1, 1), t).reshape(x.shape)


def slope(x: Tensor, t: Tensor) -> Tensor:
    """Derivative of the map to level LOW in x, (batch,): densities are carried along."""
    at, to = x.double().reshape(-1, 1), moved(x, t).reshape(-1, 1)
    return (DATA.log_prob(at, t) - DATA.log_prob(to, LOW)).exp()


def variance(x: Tensor, t: Tensor) -> Tensor:
    """Var(image | x), (batch,)."""
    x = x.double().reshape(-1, 1)
    var, log_joint, offset = DATA._parts(x, t)
    share = log_joint.softmax(1)
    mean = (DATA.means + (DATA.stds**2 / var)[..., None] * offset)[..., 0]
    within = DATA.stds**2 * (var - DATA.stds**2) / var
    return (share * (within + mean**2)).sum(1) - (share * mean).sum(1) ** 2


class Oracle(nn.Module):
    """Network that makes a `Denoiser` answer what `exact(x, t)` does."""

    img_channels, img_resolution, label_dim, augment_dim, has_destination = 1, 1, 0, 0, False

    def __init__(self, inner: Any, exact: Any) -> None:
        super().__init__()
        self.inner, self.exact = inner, exact
        self.last_layer = nn.Conv2d(1, 1, 1).double()
        nn.init.ones_(self.last_layer.weight)
        nn.init.zeros_(self.last_layer.bias)

    def forward(self, x: Tensor, c_noise: Tensor, c_noise_to: Any = None, labels: Any = None):
        t = (4 * c_noise.double()).exp()
        noisy = x / column(self.inner.c_in(t), x)
        c_skip, c_out = (column(c, x) for c in self.inner.coefficients(t))
        at_boundary = c_out.abs() < 1e-9
        F = (self.exact(noisy, t) - c_skip * noisy) / torch.where(at_boundary, 1, c_out)
        return self.last_layer(torch.where(at_boundary, 0, F))


def exact_student() -> Denoiser:
    """The exact consistency map."""
    inner = Boundary(STD, LOW)
    return Denoiser(Oracle(inner, moved), Preconditioning(inner), kind="consistency")


def exact_teacher() -> Denoiser:
    """The exact denoiser."""
    inner = EDM(STD)
    return Denoiser(Oracle(inner, denoised), Preconditioning(inner)).requires_grad_(False)


class Curve(nn.Module):
    """Perceptron with two hidden layers over (x, Fourier features of the noise level)."""

    img_channels, img_resolution, label_dim, augment_dim, has_destination = 1, 1, 0, 0, False

    def __init__(self, width: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(9, width), nn.Linear(width, width)])
        self.last_layer = nn.Conv2d(width, 1, 1)
        with torch.no_grad():
            for i, weight in enumerate(self.parameters()):
                draw = torch.randn(weight.shape, generator=stream(seed, i))
                weight.copy_(draw / math.sqrt(weight[0].numel()) if weight.ndim > 1 else 0 * draw)

    def forward(self, x: Tensor, c_noise: Tensor, c_noise_to: Any = None, labels: Any = None):
        phase = c_noise.to(x)[:, None] * torch.tensor([0.5, 1.0, 2.0, 4.0]).to(x)
        hidden = torch.cat([x.flatten(1), phase.sin(), phase.cos()], 1)
        for layer in self.layers:
            hidden = nn.functional.silu(layer(hidden))
        return self.last_layer(hidden[..., None, None])


def student(seed: int = 0, width: int = 64) -> Denoiser:
    """Untrained consistency model for the mixture."""
    inner = Boundary(STD, LOW)
    return Denoiser(Curve(width, seed), Preconditioning(inner), kind="consistency")


def train(
    objective: Any, steps: int, size: int, high: float = HIGH, lr: float = 5e-3, **networks: Any
) -> float:
    """Train a student with Adam; root-mean-square error against the exact map at level `high`.

    The learning rate falls to 0 in the second half.
    """
    model = student()
    models = Models(model, **networks)
    optimizer = torch.optim.Adam(model.parameters(), lr, betas=(0.9, 0.99))
    for step in range(steps):
        progress = step / steps
        optimizer.param_groups[0]["lr"] = lr * min(1.0, 2 - 2 * progress)
        images = draws(size, step).float()
        draw = objective.draw(size, (1, 1, 1), stream(1, step), progress)
        losses = evaluate(objective, Batch(images, None, draw), models, progress)
        optimizer.zero_grad()
        sum(loss.mean() for loss in losses.values()).backward()
        optimizer.step()
    return map_error(model, high)


@torch.no_grad()
def map_error(model: Any, high: float = HIGH, size: int = 2000) -> float:
    """Root-mean-square difference from the exact map over the quantiles at level `high`."""
    share = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    mean = float((DATA.weights * DATA.means[:, 0]).sum())
    x = mean + math.hypot(high, STD) * torch.special.ndtri(share).reshape(-1, 1, 1, 1)
    found = model(x.float(), high).double()
    return float((found - moved(x, high)).square().mean().sqrt())
