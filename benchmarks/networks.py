"""The networks that are timed: presets with weights for which every layer matters."""

from __future__ import annotations

import torch
from torch import Tensor

from ctm_fast import models
from ctm_fast.denoiser import Denoiser
from ctm_fast.models import ADMConfig, UNet
from ctm_fast.precond import Preconditioning

Inputs = tuple[Tensor, Tensor, "Tensor | None", "Tensor | None"]


def network(name: str, seed: int = 0) -> UNet:
    """A preset in eval mode on the CPU, float32, its dropout off.

    Fresh networks have layers that begin at zero; here all weights are random, of a size that
    keeps the activations at about 1, so that a wrong layer shows in the output.

    Args:
        name: one of `ctm_fast.models.PRESETS`.
        seed: of the weights.

    Raises:
        ValueError: for an unknown name.
    """
    net = models.build(name, dropout=0.0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part, parameter in net.named_parameters():
            fresh = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(fresh / parameter[0].numel() ** 0.5)
            elif "norm" in part and part.endswith("weight"):
                parameter.copy_(1 + 0.1 * fresh)
            else:
                parameter.copy_(0.1 * fresh)
    return net.eval()


def denoiser(net: UNet) -> Denoiser:
    """`net` with the preconditioning that its family was published with."""
    return Denoiser(net, preconditioning(net))


def preconditioning(net: UNet) -> Preconditioning:
    """EDM's scalings; the noise level as 250 ln sigma for ADM and ln sigma / 4 for the others."""
    embedding = "log_250" if isinstance(net.config, ADMConfig) else "quarter_log"
    return Preconditioning(noise_embedding=embedding)


def images(net: UNet, batch: int, seed: int = 1) -> Tensor:
    """(batch, C, H, W) float32 of standard deviation 0.5."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, net.img_channels, net.img_resolution, net.img_resolution)
    return 0.5 * torch.randn(shape, generator=generator)


def classes(net: UNet, batch: int) -> Tensor | None:
    """(batch,) int64, or None for an unconditional network."""
    return torch.arange(batch) % net.label_dim if net.label_dim else None


def inputs(net: UNet, batch: int) -> Inputs:
    """Arguments of one call: x, c_noise, c_noise_to (None without destination), labels."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(images(net, batch).shape, generator=generator)
    sigma = torch.linspace(0.1, 20.0, batch)
    precond = preconditioning(net)
    to = precond.c_noise(sigma * 0.3) if net.has_destination else None
    return x, precond.c_noise(sigma), to, classes(net, batch)
