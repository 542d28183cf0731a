"""Presets for the teachers of Karras et al. 2022 (EDM); the data sets are the user's.

The published runs count images; steps here are those images over the batch.
"""

from __future__ import annotations

from ..densities import LogNormal
from .preset import Preset, Said, said

CODE = "NVlabs/edm, train.py and README"
PAPER = "Karras et al. 2022 (EDM), Table 1"

_LOSS = said(
    PAPER,
    objective=dict(density=LogNormal(-1.2, 1.2)),
    sigma_min=0.002,
    sigma_max=80.0,
    sigma_data=0.5,
)
_NOTE = (
    "the augmentation is bilinear with reflected borders, where the published one filters with "
    "sym6 wavelets; turn off the data set's own flips"
)


def _published(
    batch_size: int, mimg: int, lr: float, halflife_kimg: float, net: Said, **train: object
) -> tuple[Said, ...]:
    """What all runs share, of `mimg` million images."""
    steps = {
        "steps": -(-mimg * 10**6 // batch_size),
        "lr_warmup": -(-(10**7) // batch_size),  # ten million images
    }
    return (
        _LOSS,
        said(
            CODE,
            start="random",
            train=dict(
                batch_size=batch_size,
                optimizer="adam",
                lr=lr,
                betas=(0.9, 0.999),
                eps=1e-8,
                ema=(),
                ema_halflife_kimg=(halflife_kimg,),
                ema_rampup=0.05,
                **steps,
                **train,
            ),
        ),
        net,
    )


def _ddpmpp(classes: int) -> Said:
    net = dict(dropout=0.13, label_dim=classes, augment_dim=9)
    return said(CODE, network="ddpmpp-cifar10", net=net)


def _cifar10(net: Said) -> tuple[Said, ...]:
    return _published(512, 200, 1e-3, 500.0, net, precision="fp32", augment=0.12)


def _faces(dropout: float) -> tuple[Said, ...]:
    net = said(CODE, network="edm-ffhq64", net=dict(dropout=dropout, label_dim=0, augment_dim=9))
    return _published(256, 200, 2e-4, 500.0, net, precision="fp32", augment=0.15)


PRESETS = (
    Preset("edm-cifar10", "dsm", *_cifar10(_ddpmpp(0)), note=_NOTE),
    Preset("edm-cifar10-cond", "dsm", *_cifar10(_ddpmpp(10)), note=_NOTE),
    Preset(
        "edm-cifar10-ve",
        "dsm",
        *_cifar10(
            said(
                CODE,
                network="ncsnpp-cifar10",
                net=dict(dropout=0.13, fourier_scale=16.0, label_dim=0, augment_dim=9),
            )
        ),
        note=_NOTE,
    ),
    Preset("edm-ffhq64", "dsm", *_faces(0.05), note=_NOTE),
    Preset("edm-afhqv2-64", "dsm", *_faces(0.25), note=_NOTE),
    Preset(
        "edm-imagenet64",
        "dsm",
        *_published(
            4096,
            2500,
            1e-4,
            50_000.0,
            said(CODE, network="adm-imagenet64", net=dict(dropout=0.10, label_dim=1000)),
            precision="fp16",
            augment=0.0,
        ),
        note="the network is told 250 ln sigma, as the model that CM and CTM distil, where EDM's "
        "own is told ln(sigma)/4; the loss scale of fp16 is found by itself, published is 100",
    ),
)
