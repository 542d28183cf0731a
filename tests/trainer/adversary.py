"""A discriminator for images of 4x4 pixels, and CTM with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ctm_fast.losses import CTMGAN, GAN, Models
from ctm_fast.models import shared_dropout
from ctm_fast.rng import stream


class Heads(nn.Module):
    """A frozen random projection, one hidden layer and four logits per image."""

    projection: Tensor

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.register_buffer("projection", torch.randn(3, 1, 1, 1, generator=stream(11)))
        with shared_dropout("cpu", 12):  # layers and power iterations draw from the global state
            hidden: list[nn.Module] = [nn.Conv2d(3, 4, 3)]
            if norm:
                hidden = [spectral_norm(hidden[0]), nn.BatchNorm2d(4)]
            self.layers = nn.Sequential(*hidden, nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 1, bias=False))

    def forward(
        self, images: Tensor, uniforms: Tensor | None = None, features: Any = None
    ) -> Tensor:
        """(batch, 4); `uniforms` shift the images, `features` are not used."""
        if uniforms is not None:
            images = images + 0.1 * uniforms[:, 0, 0].reshape(-1, 1, 1, 1)
        return self.layers(nn.functional.conv2d(images, self.projection)).flatten(1)


@dataclass(frozen=True)
class Adversarial(CTMGAN):
    """CTM + DSM + GAN with `Heads`."""

    norm: bool = True  # BatchNorm and spectral norm

    def companion(self, models: Models) -> nn.Module:
        return Heads(self.norm)


def adversarial(norm: bool = True, **options: Any) -> Adversarial:
    """The objective on a grid of four levels; options are those of `GAN`."""
    return Adversarial(num_scales=4, gan=GAN(**options), norm=norm)
