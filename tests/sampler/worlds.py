"""Models whose samples are known: Gaussian pixels, and a network of random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ctm_fast.denoiser import Denoiser
from ctm_fast.models import SongConfig, net_from_config

from .. import analytic

SD = 0.5


class World:
    """Exact model of images N(0, SD^2) in a model's clothes; counts its network calls."""

    img_channels, img_resolution, label_dim = 2, 4, 0
    sigma_min, sigma_max = 0.002, 80.0

    def __init__(self, kind: str = "trajectory", **attributes: Any) -> None:
        self.kind, self.calls, self.data = kind, 0, analytic.Gaussian(0.0, SD)
        for name, value in attributes.items():
            setattr(self, name, value)

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        self.calls += 1
        assert sigma.shape == (len(x),) and sigma.dtype == x.dtype
        return self.data(x, sigma)

    def jump(
        self, x: Tensor, sigma: Tensor, sigma_to: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        self.calls += 1
        assert sigma.shape == sigma_to.shape == (len(x),) and sigma.dtype == x.dtype
        return self.data.jump(x, sigma, sigma_to)


def flow(x: Tensor, sigma: float, sigma_to: float) -> Tensor:
    """Exact point at `sigma_to` on the trajectory through (x, sigma)."""
    return analytic.Gaussian(0.0, SD).jump(x, sigma, sigma_to)


def latents(num: int, sigma: float = 80.0, size: int = 4) -> Tensor:
    """First state (num, 2, size, size), float64."""
    shape = (num, 2, size, size)
    generator = torch.Generator().manual_seed(1)
    return sigma * torch.randn(shape, generator=generator, dtype=torch.float64)


class Net(nn.Module):
    """Two convolutions with dropout that see both noise levels and the label."""

    img_channels, img_resolution = 2, 4

    def __init__(self, label_dim: int = 0, has_destination: bool = True) -> None:
        super().__init__()
        self.label_dim, self.has_destination = label_dim, has_destination
        self.first, self.last_layer = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)
        self.levels, self.classes = nn.Linear(2, 8), nn.Embedding(max(label_dim, 1), 8)
        self.dropout = nn.Dropout(0.5)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        c_noise_to: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        both = torch.stack([c_noise, c_noise if c_noise_to is None else c_noise_to], 1)
        shift = self.levels(both.to(x.dtype))
        if labels is not None:
            shift = shift + self.classes(labels)
        hidden = torch.tanh(self.first(x) + shift[:, :, None, None])
        return self.last_layer(self.dropout(hidden))


def small_model(kind: str = "trajectory", label_dim: int = 0, seed: int = 0) -> Denoiser:
    """Denoiser of a `Net` with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Net(label_dim, has_destination=kind == "trajectory")
    return Denoiser(net, kind=kind)


def unet_model(kind: str = "trajectory", label_dim: int = 0, seed: int = 0) -> Denoiser:
    """Denoiser of a small U-Net of ours, its weights all random."""
    config = SongConfig(
        img_resolution=4,
        img_channels=2,
        label_dim=label_dim,
        model_channels=8,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(),
        dropout=0.1,
        destination=kind == "trajectory",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = net_from_config(config)
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.1)
    return Denoiser(net, kind=kind)
