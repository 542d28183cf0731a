"""The exact consistency map of a mixture down to noise level 0, and batches for sCM's tests."""

import dataclasses

import torch

from ctm_fast import models as networks
from ctm_fast.denoiser import Denoiser
from ctm_fast.losses import SCM, Batch
from ctm_fast.precond import EDM, Preconditioning
from ctm_fast.rng import stream

from . import flow_oracle
from .oracle import STD, Curve, Oracle, column, draws

PLAIN = SCM(normalisation="none", learned_weighting=False, warmup=0.0)
DISTIL = dataclasses.replace(PLAIN, distil=True)
SMALL = dict(model_channels=16, num_blocks=1, dropout=0.3, attn_resolutions=(4,))
NETWORKS = {
    "digits": SMALL,
    "adm-imagenet64": {
        **SMALL,
        "model_channels": 32,  # heads are 64 wide
        "img_resolution": 8,
        "channel_mult": (1, 2),
        "label_dim": 10,
    },
}


def to_image(x, t):
    """The exact map of the mixture to noise level 0, with its derivatives."""
    t = t.double()
    z, tau = x.double() / (1 + column(t, x.double())), t / (1 + t)
    return flow_oracle.moved(z.flatten(), tau, torch.zeros_like(tau)).reshape(x.shape)


def exact_map():
    """The student that needs no training."""
    return Denoiser(Oracle(EDM(STD), to_image), Preconditioning(EDM(STD)), kind="consistency")


def curve(seed=0, dtype=torch.float64, kind="consistency"):
    """Untrained student of the mixture."""
    model = Denoiser(Curve(seed=seed), Preconditioning(EDM(STD)), kind=kind)
    return model.to(dtype)


def unet(name, dtype=torch.float64):
    """Tiny U-Net in training mode, as a student."""
    net = networks.build(name, seed=1, **NETWORKS[name]).double().train()
    with torch.no_grad():  # some layers start near zero
        for weight in net.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=stream(9), dtype=torch.float64)
    return Denoiser(net.to(dtype), kind="consistency")


def batch_at(sigma, seed=0):
    """Draws of the mixture at given noise levels, float64."""
    size = len(sigma)
    noise = torch.randn(size, 1, 1, 1, generator=stream(seed, 7), dtype=torch.float64)
    return Batch(draws(size, seed), None, {"sigma": sigma.double(), "noise": noise})


def unet_batch(model, size=3):
    """Random images with labels and draws, float64."""
    shape = (size, model.img_channels, 8, 8)
    images = torch.rand(shape, generator=stream(4), dtype=torch.float64) * 2 - 1
    draw = PLAIN.draw(size, shape[1:], stream(0, 0))
    draw["noise"] = draw["noise"].double()
    return Batch(images, torch.arange(size), draw)
