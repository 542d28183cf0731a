"""Projected discriminator: trained heads on random projections of frozen feature networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..rng import stream_seed
from .diff_augment import DRAWS as DRAWS
from .diff_augment import DiffAugment
from .discriminator_heads import Head
from .dropout import shared_dropout
from .feature_nets import AnyBackbone, Features, TeacherEncoder
from .projector import Maps, Projector

_ADAPTER, _PROJECTOR, _HEADS = range(3)  # what the random numbers of a backbone are for


class Discriminator(nn.Module):
    """Logits of images: real ones are to get positive numbers, generated ones negative.

    Every backbone sees its own augmentation of the images; its feature maps are mixed by random
    frozen layers and judged by one small trained network per map. Only these heads have
    parameters. The projectors are buffers and part of the state dict. The backbones are neither:
    they are the caller's (`features`) or come from a file or a seed; they follow `.to()` and
    `.double()`, and always stay in eval mode. In train mode a call needs at least two images and
    moves the heads' batch norm statistics and spectral norm vectors.

    Args:
        backbones: choices, see `ctm_fast.models.feature_nets`.
        channels_of_teacher: (channels, size) of the feature maps that `features` gives, finest
            first; needed where a backbone is `TeacherEncoder`, whose `maps(teacher)` tells them.
        seed: of projectors and heads' initial weights.
        augment: strengths of the augmentation.

    Attributes:
        num_backbones: number of backbones.

    Raises:
        ValueError: without backbones, with two `TeacherEncoder`, or for what a backbone refuses.

    Source: Sauer et al. 2021 (Projected GANs, arXiv:2111.01007), with two backbones as in
    StyleGAN-XL (arXiv:2202.00273) and CTM (arXiv:2310.02279), Appendix.
    """

    def __init__(
        self,
        backbones: Sequence[AnyBackbone],
        *,
        channels_of_teacher: Maps | None = None,
        seed: int = 0,
        augment: DiffAugment | None = None,
    ) -> None:
        super().__init__()
        if not backbones:
            raise ValueError("a discriminator needs at least one backbone, got none")
        if sum(isinstance(b, TeacherEncoder) for b in backbones) > 1:
            raise ValueError("only one backbone can be TeacherEncoder: `features` is one callable")
        self.num_backbones = len(backbones)
        self.augment = augment or DiffAugment()
        self.branches = nn.ModuleList()
        # A plain list, so that they are in no state dict and `train()` does not reach them.
        self._networks: list[nn.Module | None] = []
        for i, backbone in enumerate(backbones):
            parts = backbone.parts(channels_of_teacher, (seed, i, _ADAPTER))
            network = parts.network
            self._networks.append(network and network.requires_grad_(False).eval())
            # Layers and their spectral norms draw from PyTorch's own random state.
            with shared_dropout("cpu", stream_seed(seed, i, _HEADS)):
                projector = Projector(parts.maps, (seed, i, _PROJECTOR), backbone.width)
                self.branches.append(_Branch(parts.adapter, projector, backbone.width))

    def forward(
        self,
        images: Tensor,
        uniforms: Tensor | None = None,
        features: Features | None = None,
    ) -> Tensor:
        """(batch, K) logits, float32 (float64 for a discriminator in float64).

        K is the number of maps and places, 64 for a backbone that sees 224 pixels.

        Args:
            images: (batch, C, H, W) in [-1, 1].
            uniforms: (batch, num_backbones, 7) in [0, 1), random numbers of `DiffAugment`; None:
                the images are not augmented.
            features: images -> list of maps (batch, C_i, H_i, W_i), finest first, of the frozen
                teacher; used where a backbone is `TeacherEncoder`.

        Raises:
            ValueError: for other shapes, or a missing `features`.
        """
        if images.ndim != 4 or not images.is_floating_point():
            raise ValueError(
                "images must be (batch, C, H, W) and floating point, got "
                f"{tuple(images.shape)} {images.dtype}"
            )
        wanted = (len(images), self.num_backbones, DRAWS)
        if uniforms is not None and uniforms.shape != wanted:
            raise ValueError(f"uniforms must be {wanted}, got {tuple(uniforms.shape)}")
        logits = []
        for i, (network, branch) in enumerate(zip(self._networks, self.branches)):
            seen = images if uniforms is None else self.augment(images, uniforms[:, i])
            source = network or features
            if source is None:
                raise ValueError(
                    "TeacherEncoder needs features=, a callable images -> feature maps; "
                    "TeacherEncoder().features(teacher) makes one"
                )
            logits.append(branch(source(seen)))
        joined = torch.cat(logits, dim=1)
        return joined.to(torch.promote_types(joined.dtype, torch.float32))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Discriminator:
        # The backbones are no submodules, yet move and change dtype with the heads.
        for network in self._networks:
            if network is not None:
                network._apply(fn, recurse)
        return super()._apply(fn, recurse)


class _Branch(nn.Module):
    """What follows one backbone."""

    def __init__(self, adapter: nn.Module | None, projector: Projector, width: int) -> None:
        super().__init__()
        self.adapter = adapter
        self.projector = projector
        self.heads = nn.ModuleList(Head(*item, width) for item in projector.maps)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(batch, logits of all heads, finest map first)."""
        if self.adapter is not None:
            maps = self.adapter(maps)
        projected = self.projector(maps)
        small = [h.size for h, m in zip(self.heads, projected) if min(m.shape[-2:]) < h.size]
        if small:
            raise ValueError(
                "feature maps are smaller than this discriminator was made for: shapes "
                f"{[tuple(m.shape) for m in maps]}"
            )
        return torch.cat([head(m) for head, m in zip(self.heads, projected)], dim=1)


def discriminator(
    backbones: Sequence[AnyBackbone],
    *,
    channels_of_teacher: Maps | None = None,
    seed: int = 0,
    augment: DiffAugment | None = None,
) -> Discriminator:
    """`Discriminator` in train mode; see there.

    Args:
        backbones: frozen feature networks.
        channels_of_teacher: (channels, size) of the teacher's feature maps, finest first.
        seed: of everything random in it.
        augment: strengths of the augmentation.

    Raises:
        ValueError: as `Discriminator`.
    """
    return Discriminator(
        backbones, channels_of_teacher=channels_of_teacher, seed=seed, augment=augment
    )
