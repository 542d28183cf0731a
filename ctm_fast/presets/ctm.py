"""Presets of Kim et al. 2024 (CTM) for CIFAR-10 and ImageNet-64; the data sets are the user's.

A run with the adversarial term counts the steps of student and discriminator together, as the
published code does.
"""

from __future__ import annotations

from ..losses import LPIPS
from ..losses.gan import GAN
from ..models.feature_nets import Timm
from ..timesteps import TrajectoryLevels
from .preset import Preset, Said, said

PAPER = "Kim et al. 2024 (CTM), Table 4"
CODE = "sony/ctm, launch scripts"
CIFAR_CODE = "Kim-Dongjun/ctm-cifar10, commands"
CHAIN = "unverified: read from the published scripts, which chain several runs"
HEARSAY = "unverified: Kim et al. 2024 (CTM), as reported by readers"
README = "sony/ctm, README: at least 30,000 steps"

BACKBONES = (Timm("deit_base_distilled_patch16_224"), Timm("tf_efficientnet_lite0"))
_FILES = "LPIPS needs weight files (--objective.distance.weights)"
_HEADS = _FILES + ", and timm's backbones theirs (folder CTM_WEIGHTS_DIR)"
_RADAM = dict(optimizer="radam", betas=(0.9, 0.999), eps=1e-8)

_CIFAR10 = (
    said(
        PAPER,
        train=dict(lr=4e-4, batch_size=256, steps=100_000, ema=(0.999,), target_ema=0.999),
        objective=dict(levels=TrajectoryLevels(max_steps=17)),
    ),
    said(
        CIFAR_CODE,
        train=dict(precision="fp16", **_RADAM),
        objective=dict(num_scales=18, distance=LPIPS(), weighting="uniform"),
        network="ctm-ddpmpp-cifar10",
        net=dict(dropout=0.13),
        start="teacher",
        sigma_min=0.002,
        sigma_max=80.0,
    ),
)
_CLASSES = said("Krizhevsky 2009 (CIFAR-10)", net=dict(label_dim=10))
_NO_CLASSES = said("unconditional", net=dict(label_dim=0))


def _gan(start: int) -> Said:
    """The adversarial term as all published commands have it."""
    return said(CODE, objective=dict(gan=GAN(backbones=BACKBONES, start=start)))


_CIFAR10_GAN = _gan(50_000).by(CIFAR_CODE + "; it begins after 50,000 steps: " + HEARSAY)
_COND_NOTE = (
    "; the published commands continue the run without the term, with batch 528, where Table 4 "
    "has 256; heads normalise by a microbatch, published are 11 images: --microbatch 11"
)

_IMAGENET64 = (
    said(
        CODE,
        train=dict(
            precision="fp16", ema=(0.999, 0.9999, 0.9999432189950708), target_ema=0.999, **_RADAM
        ),
        objective=dict(num_scales=40, distance=LPIPS(), weighting="uniform"),
        network="ctm-adm-imagenet64",
        net=dict(dropout=0.0, label_dim=1000),
        sigma_min=0.002,
        sigma_max=80.0,
    ),
)

PRESETS = (
    Preset(
        "ctm-cifar10",
        "ctm",
        *_CIFAR10,
        _NO_CLASSES,
        note="without the GAN term of the published run's second half; " + _FILES,
    ),
    Preset(
        "ctm-cifar10-cond",
        "ctm",
        *_CIFAR10,
        _CLASSES,
        note="without the GAN term of the published run's second half; " + _FILES,
    ),
    Preset(
        "ctm-cifar10-noteacher",
        "ctm",
        *_CIFAR10,
        _NO_CLASSES,
        said(PAPER, train=dict(steps=300_000)),
        said(
            "Kim et al. 2024 (CTM), Section 5.2",
            objective=dict(self_teacher="heun_denoiser"),
            start="random",
        ),
        said("Karras et al. 2022 (EDM), Table 1", sigma_data=0.5),
        note=_FILES + "; the published code jumps where the paper solves: "
        "--objective.self-teacher iterative_jump",
    ),
    Preset(
        "ctm-cifar10-gan",
        "ctm_gan",
        *_CIFAR10,
        _NO_CLASSES,
        _CIFAR10_GAN,
        said(CIFAR_CODE + ", unconditional", train=dict(target_ema=0.9999)),
        note=_HEADS + _COND_NOTE,
    ),
    Preset(
        "ctm-cifar10-cond-gan",
        "ctm_gan",
        *_CIFAR10,
        _CLASSES,
        _CIFAR10_GAN,
        note=_HEADS + _COND_NOTE,
    ),
    Preset(
        "ctm-imagenet64",
        "ctm",
        *_IMAGENET64,
        said(
            CODE + " (CTM + DSM)",
            train=dict(lr=4e-4, batch_size=1440),
            objective=dict(levels=TrajectoryLevels(max_steps=39)),
            start="teacher",
        ),
        said(CHAIN, train=dict(steps=10_000)),
        note="the warm-up of ctm-imagenet64-gan; " + _FILES,
    ),
    Preset(
        "ctm-imagenet64-gan",
        "ctm_gan",
        *_IMAGENET64,
        said(
            PAPER,
            train=dict(lr=8e-6, batch_size=2048),
            objective=dict(levels=TrajectoryLevels(max_steps=20)),
        ),
        _gan(0),
        said(README, train=dict(steps=30_000)),
        said(CODE, start="student"),
        note="begins with the average of ctm-imagenet64 (--student); the published commands raise "
        "the batch from 264 to 4224 in four legs; "
        + _HEADS
        + "; heads normalise by a microbatch, published are 11 images: --microbatch 11",
    ),
)
