"""What a network accepts: checks of its arguments, each with the value and what is allowed."""

from __future__ import annotations

import torch
from torch import Tensor

from .configs import Config


def check_images(config: Config, x: Tensor) -> None:
    """Raise ValueError unless x is (batch, C, H, W) with C, H and W that suit the network."""
    if x.ndim != 4 or x.shape[1] != config.img_channels:
        raise ValueError(
            f"images have shape {tuple(x.shape)}; this network takes "
            f"(batch, {config.img_channels}, H, W)"
        )
    step = 2 ** (len(config.channel_mult) - 1)
    if x.shape[2] % step or x.shape[3] % step:
        raise ValueError(
            f"images have {x.shape[2]}x{x.shape[3]} pixels; height and width must divide by {step}"
        )


def check_conditions(
    config: Config,
    batch: int,
    c_noise: Tensor | None,
    c_noise_to: Tensor | None,
    labels: Tensor | None,
    augment_labels: Tensor | None,
) -> None:
    """Raise ValueError unless what the network is told besides `batch` images suits it."""
    if c_noise is None:
        raise ValueError("the network needs c_noise, the noise level (or modulation)")
    _check_levels("c_noise", c_noise, batch)
    if c_noise_to is not None:
        if not config.destination:
            raise ValueError("c_noise_to was given, but this network has no destination embedding")
        _check_levels("c_noise_to", c_noise_to, batch)
    if labels is not None:
        _check_labels(config.label_dim, labels, batch)
    if augment_labels is not None and augment_labels.shape[1:] != (config.augment_dim,):
        raise ValueError(
            f"augment_labels have shape {tuple(augment_labels.shape)}; this network takes "
            f"({batch}, {config.augment_dim})"
        )


def _check_levels(name: str, levels: Tensor, batch: int) -> None:
    if levels.shape not in ((batch,), (1,)):
        raise ValueError(f"{name} has shape {tuple(levels.shape)}; need ({batch},) or (1,)")


def _check_labels(classes: int, labels: Tensor, batch: int) -> None:
    if classes == 0:
        raise ValueError("labels were given, but this network is unconditional (label_dim=0)")
    if labels.is_floating_point():
        if labels.shape not in ((batch, classes), (1, classes)):
            raise ValueError(
                f"float labels have shape {tuple(labels.shape)}; need ({batch}, {classes})"
            )
        return
    if labels.shape != (batch,):
        raise ValueError(f"integer labels have shape {tuple(labels.shape)}; need ({batch},)")
    # Looking at numbers on a GPU would wait for it.
    if labels.device.type == "cpu" and not torch.compiler.is_compiling() and batch:
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= classes:
            raise ValueError(f"labels range from {low} to {high}; classes are 0..{classes - 1}")
