"""Exponential moving averages of a network's weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from .config import TrainConfig


@dataclass(frozen=True)
class Rate:
    """The same decay at every step."""

    decay: float  # share of the old average that is kept, in [0, 1)

    def __call__(self, images_seen: int, batch_size: int) -> float:
        """The decay."""
        return self.decay


@dataclass(frozen=True)
class HalfLife:
    """Decay 0.5^(batch_size / half-life); early on the half-life is a share of the images seen.

    Source: Karras et al. 2022 (EDM), Table 7 and its published training loop.
    """

    kimg: float  # half-life in thousand images, > 0
    rampup: float = 0.05  # half-life is at most this times the images seen so far

    def __call__(self, images_seen: int, batch_size: int) -> float:
        """The decay of a step of `batch_size` images after `images_seen` images."""
        halflife = min(self.kimg * 1000, self.rampup * images_seen)
        return 0.0 if halflife <= 0 else 0.5 ** (batch_size / halflife)


Decay = Callable[[int, int], float]


class EMA:
    """Average of a model's weights, kept as a model: `ema.model`.

    It starts as a copy and follows by average = decay * average + (1 - decay) * weights in the
    precision of the weights. Buffers are copied, not averaged. `update` does it plainly; the
    trainer's optimizer moves all averages while it has the weights at hand.

    Args:
        model: what is averaged, with float32 weights (float64 for tests of exactness).
        decay: (images seen before the step, batch size) -> decay in [0, 1).
    """

    def __init__(self, model: Denoiser, decay: Decay) -> None:
        self.decay = decay
        self.model: Denoiser = copy.deepcopy(model)
        self.model.requires_grad_(False)

    @torch.no_grad()
    def update(self, model: Denoiser, images_seen: int, batch_size: int) -> None:
        """Follow `model` by one optimizer step of `batch_size` images."""
        own: list[Tensor] = list(self.model.parameters())
        new: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(own, new, 1 - self.decay(images_seen, batch_size))
        self.copy_buffers(model)

    @torch.no_grad()
    def copy_buffers(self, model: nn.Module) -> None:
        """Make the buffers equal to those of `model`."""
        if own := list(self.model.buffers()):
            torch._foreach_copy_(own, list(model.buffers()))


def averages(model: Denoiser, config: TrainConfig) -> list[EMA]:
    """The averages that `config` asks for, as models in eval mode: rates, then half-lives."""
    decays: list[Decay] = [Rate(decay) for decay in config.ema]
    decays += [HalfLife(kimg, config.ema_rampup) for kimg in config.ema_halflife_kimg]
    made = [EMA(model, decay) for decay in decays]
    for average in made:
        average.model.eval()
    return made
