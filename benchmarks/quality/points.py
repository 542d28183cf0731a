"""A small network for points in the plane, with the interface of `ctm_fast.models`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ctm_fast.denoiser import Denoiser
from ctm_fast.rng import stream

FREQUENCIES = 16


@dataclass(frozen=True)
class PointsConfig:
    """Shape of the network."""

    width: int = 128
    layers: int = 4
    destination: bool = False


class PointsNet(nn.Module):
    """Residual layers whose every input is told the noise level, and the one jumped to if any.

    Args:
        config: width, depth, whether there is a destination.
        seed: of the weights.
    """

    img_channels, img_resolution, label_dim, augment_dim = 2, 1, 0, 0
    frequencies: Tensor

    def __init__(self, config: PointsConfig | None = None, seed: int = 0) -> None:
        super().__init__()
        self.config = config or PointsConfig()
        width, self.has_destination = self.config.width, self.config.destination
        self.register_buffer("frequencies", torch.logspace(-1, 1.2, FREQUENCIES))
        self.first = nn.Linear(2, width)
        self.level = nn.Linear(2 * FREQUENCIES, width)
        self.level_to = nn.Linear(2 * FREQUENCIES, width) if self.has_destination else None
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(self.config.layers))
        self.told = nn.ModuleList(nn.Linear(width, width) for _ in range(self.config.layers))
        self.last_layer = nn.Conv2d(width, 2, 1)
        generator = stream(seed, width)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                with torch.no_grad():
                    layer.weight.normal_(0, layer.in_features**-0.5, generator=generator)
                    layer.bias.zero_()
        nn.init.zeros_(self.last_layer.weight)
        nn.init.zeros_(self.last_layer.bias)  # type: ignore[arg-type]
        if self.level_to is not None:
            # At first where it jumps to makes no difference: it denoises, as its teacher does.
            nn.init.zeros_(self.level_to.weight)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        c_noise_to: Tensor | None = None,
        labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """F, shape of x (batch, 2, 1, 1)."""
        told = self.level(self._waves(c_noise, x))
        if self.level_to is not None:
            told = told + self.level_to(
                self._waves(c_noise if c_noise_to is None else c_noise_to, x)
            )
        told = nn.functional.silu(told)
        h = self.first(x.flatten(1))
        for hidden, level in zip(self.hidden, self.told):
            h = h + nn.functional.silu(hidden(h) + level(told))
        return self.last_layer(h[:, :, None, None])

    def _waves(self, c_noise: Tensor, x: Tensor) -> Tensor:
        angles = c_noise.to(x.dtype).reshape(-1, 1) * self.frequencies.to(x.dtype)
        return torch.cat([angles.cos(), angles.sin()], 1).expand(len(x), -1)


def points_student(teacher: Denoiser, kind: str, seed: int = 0) -> Denoiser:
    """Denoiser of another kind with the teacher's weights; it denoises as the teacher at first."""
    config = PointsConfig(destination=kind == "trajectory")
    net = PointsNet(config, seed)
    own = net.state_dict()
    assert isinstance(teacher.net, PointsNet)
    net.load_state_dict({**own, **{k: v for k, v in teacher.net.state_dict().items() if k in own}})
    low, high = teacher.sigma_min, teacher.sigma_max
    return Denoiser(net, teacher.precond, kind=kind, sigma_min=low, sigma_max=high)
