"""The exact flow map of a mixture in one dimension on the linear path, and a network to learn it.

In one dimension the probability-flow ODE keeps quantiles. Times are those of the linear path:
z = (1 - t) image + t noise.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ctm_fast.denoiser import Denoiser
from ctm_fast.losses import Batch, Models, evaluate
from ctm_fast.noise_embeddings import FlowTime
from ctm_fast.precond import LinearFlow, Preconditioning
from ctm_fast.rng import stream

from .oracle import DATA, draws

FLOW = Preconditioning(LinearFlow(), noise_embedding=FlowTime())
RANGE = {"sigma_min": 1e-4, "sigma_max": 1e4}


def tail(z: Tensor, t: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """Probability beyond z at time t, below it for side 1 and above it for -1, and its density."""
    mean = (1 - t)[:, None] * DATA.means[:, 0]
    std = ((1 - t)[:, None] ** 2 * DATA.stds**2 + t[:, None] ** 2).sqrt()
    offset = (z[:, None] - mean) / std
    share = torch.erfc(-side[:, None] * offset / math.sqrt(2)) / 2
    density = (-(offset**2) / 2).exp() / std / math.sqrt(2 * math.pi)
    return (DATA.weights * share).sum(1), (DATA.weights * density).sum(1)


def moved(z: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """Exact point at time r, (batch,) float64, with exact derivatives of first order."""
    fixed = [torch.autograd.forward_ad.unpack_dual(v).primal.detach() for v in (z, t, r)]
    below = tail(fixed[0], fixed[1], torch.ones_like(fixed[0]))[0]
    side = torch.where(below < 0.5, 1.0, -1.0).double()
    wanted = tail(fixed[0], fixed[1], side)[0]
    low, high = torch.full_like(fixed[0], -40.0), torch.full_like(fixed[0], 40.0)
    for _ in range(70):
        middle = (low + high) / 2
        up = (tail(middle, fixed[2], side)[0] < wanted) == (side > 0)
        low, high = torch.where(up, middle, low), torch.where(up, high, middle)
    at = (low + high) / 2
    # A step of Newton's method moves nothing, and differentiates the inverse function.
    found, density = tail(at, r, side)
    return at - side * (found - tail(z, t, side)[0]) / density


def exact_velocity(z: Tensor, t: Tensor) -> Tensor:
    """Exact dz/dt, (batch,) float64."""
    x, sigma = (z / (1 - t))[:, None], t / (1 - t)
    return (z - DATA(x, sigma)[:, 0]) / t


class FlowOracle(nn.Module):
    """Network that makes a `Denoiser` with `FLOW` the exact flow map, bent by `wrong`."""

    img_channels, img_resolution, label_dim, augment_dim, has_destination = 1, 1, 0, 0, True

    def __init__(self, wrong: float = 0.0) -> None:
        super().__init__()
        self.wrong, self.calls = wrong, 0

    def forward(self, x: Tensor, c_noise: Tensor, c_noise_to: Any = None, labels: Any = None):
        self.calls += 1
        z, t = x.double().flatten(), c_noise.double().expand(len(x))
        gap = c_noise_to.double().expand(len(x))
        still = gap == 0
        room = torch.where(still, torch.full_like(gap, 0.5) * t, gap)
        u = torch.where(still, exact_velocity(z, t), (z - moved(z, t, t - room)) / room)
        return (u * (1 + self.wrong * gap)).reshape(x.shape).to(x.dtype)


def exact_map(wrong: float = 0.0) -> Denoiser:
    """The exact flow map as a model."""
    return Denoiser(FlowOracle(wrong), FLOW, **RANGE)


class FlowCurve(nn.Module):
    """Perceptron over (z, what it is told of both levels), with two hidden layers."""

    img_channels, img_resolution, label_dim, augment_dim = 1, 1, 0, 0

    def __init__(self, width: int = 64, seed: int = 0, destination: bool = True) -> None:
        super().__init__()
        self.has_destination = destination
        self.layers = nn.ModuleList([nn.Linear(13, width), nn.Linear(width, width)])
        self.last_layer = nn.Conv2d(width, 1, 1)
        with torch.no_grad():
            for i, weight in enumerate(self.parameters()):
                draw = torch.randn(weight.shape, generator=stream(seed, i))
                weight.copy_(draw / math.sqrt(weight[0].numel()) if weight.ndim > 1 else 0 * draw)

    def forward(self, x: Tensor, c_noise: Tensor, c_noise_to: Any = None, labels: Any = None):
        told = [c_noise, torch.zeros_like(c_noise) if c_noise_to is None else c_noise_to]
        pace = torch.tensor([1.0, 2.0, 4.0]).to(x)
        phases = [2 * level[:, None].to(x) * pace for level in told]
        waves = [wave for phase in phases for wave in (phase.sin(), phase.cos())]
        hidden = torch.cat([x.flatten(1), *waves], 1)
        for layer in self.layers:
            hidden = nn.functional.silu(layer(hidden))
        return self.last_layer(hidden[..., None, None])


def train(
    objective: Any, steps: int, size: int, lr: float = 4e-3, width: int = 64, **networks: Any
) -> Denoiser:
    """Flow map trained with Adam and a learning rate that falls to 0."""
    model = Denoiser(FlowCurve(width), FLOW, **RANGE)
    models = Models(model, **networks)
    optimizer = torch.optim.Adam(model.parameters(), lr, betas=(0.9, 0.99))
    for step in range(steps):
        progress = step / steps
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - progress)
        draw = objective.draw(size, (1, 1, 1), stream(1, step), progress)
        losses = evaluate(objective, Batch(draws(size, step).float(), None, draw), models, progress)
        optimizer.zero_grad()
        sum(loss.mean() for loss in losses.values()).backward()
        optimizer.step()
    return model


@torch.no_grad()
def map_error(model: Denoiser, steps: int = 1, size: int = 1000) -> float:
    """Root-mean-square difference from the exact map over the quantiles of noise."""
    share = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    high, low = RANGE["sigma_max"], RANGE["sigma_min"]
    x = high * torch.special.ndtri(share).reshape(-1, 1, 1, 1)
    exact = DATA.jump(x.reshape(-1, 1), high, low).reshape(x.shape)
    levels = model.even_sigmas(steps).tolist()
    state = x.float()
    for i in range(steps):
        state = model.jump(state, levels[i], levels[i + 1])
    return float((state.double() - exact).square().mean().sqrt())
