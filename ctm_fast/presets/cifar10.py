"""Presets for CIFAR-10, unconditional, 32x32; the data set is the user's."""

from __future__ import annotations

from ..curricula import DoublingScales, FixedScales, SquareRootScales
from ..densities import LogNormal, LogStudentT, TruncatedLogNormal
from ..gaps import SigmoidGap
from ..losses import LPIPS, Norm, PseudoHuber
from ..losses.linear_path import PUBLISHED_TIMES
from .preset import Preset, said

CM_CODE = "openai/consistency_models_cifar10, configs"
CM_PAPER = "Song et al. 2023 (CM)"
ICT = "unverified: Song & Dhariwal 2023 (iCT), no published code"
ECT_CODE = "locuslab/ect, run_ecm.sh"
ECT_HOUR = "locuslab/ect, run_ecm_1hour.sh"
FASTGEN = "NVlabs/FastGen, its own configuration of the method"
SCT = "unverified: Wang et al. 2024 (SCT), no published code"
LIKE_ECT = "unverified: as ECT, which SCT builds on"
TCM_CODE = "NVlabs/tcm, README scripts"
SCM_PAPER = "Lu & Song 2024 (sCM), Appendix"
MEANFLOW_CODE = "Gsunshine/py-meanflow, v1"
MEANFLOW_PAPER = "Gsunshine/py-meanflow, v0 (the paper's run)"

_RADAM = dict(optimizer="radam", betas=(0.9, 0.999), eps=1e-8)
_NCSNPP = dict(network="ncsnpp-cifar10", net=dict(dropout=0.0, fourier_scale=16.0))
_CM = said(
    CM_CODE,
    train=dict(lr=4e-4, batch_size=512, steps=800_000, ema=(0.9999,), precision="fp32", **_RADAM),
    objective=dict(distance=LPIPS(), weighting="uniform", rho=7.0),
    sigma_min=0.002,
    sigma_max=80.0,
    **_NCSNPP,
)
_LPIPS_NOTE = "LPIPS needs weight files, see its fields; the published l1 run has lr 2e-4"
_ECT = said(
    ECT_CODE,
    objective=dict(
        density=LogNormal(-1.1, 2.0),
        gap=SigmoidGap(q=2.0, stages=8, k=8.0, b=1.0),
        distance=Norm(0.0),
        weighting="inverse_step",
    ),
    train=dict(steps=200_000, batch_size=128, lr=1e-4, ema=(0.9999,), precision="fp32", **_RADAM),
    network="ddpmpp-cifar10",
    net=dict(dropout=0.2),
    start="teacher",
    middle=0.821,
)
_TCM = said(
    TCM_CODE,
    train=dict(ema=(0.9999,), precision="fp32", **_RADAM),
    network="ddpmpp-cifar10",
    net=dict(dropout=0.2),
    objective=dict(distance=Norm(1e-8), weighting="inverse_step"),
    start="teacher",
)
_SCM = said(
    SCM_PAPER,
    objective=dict(density=LogNormal(-1.0, 1.4), normalisation="norm", offset=0.1),
    train=dict(
        optimizer="radam",
        lr=1e-4,
        betas=(0.9, 0.99),
        eps=1e-8,
        batch_size=512,
        ema=(),
        ema_halflife_kimg=(500.0,),
    ),
    network="ddpmpp-cifar10",
    start="teacher",
    middle=0.982,
)
_SCM_NOTE = "the published network has adaptive double normalisation, which this library has not"
_MEANFLOW = said(
    MEANFLOW_CODE,
    objective=dict(times=PUBLISHED_TIMES["cifar10"], power=0.75, eps=1e-3),
    train=dict(
        optimizer="adam",
        lr=6e-4,
        betas=(0.9, 0.999),
        batch_size=1024,
        steps=800_000,
        lr_warmup=9_766,  # 200 epochs of 50,000 images
        ema=(0.9999, 0.99995, 0.9996),
    ),
    network="ctm-ddpmpp-cifar10",
    net=dict(dropout=0.2),
    start="random",
)
_MEANFLOW_NOTE = (
    "the published run augments as EDM does and applies its averages every 16 steps; here there is "
    "no augmentation and they are applied at every step"
)

PRESETS = (
    Preset(
        "cd-cifar10",
        "cm",
        _CM,
        said(
            CM_CODE,
            objective=dict(scales=FixedScales(18), teacher_solver="heun", decay=0.0),
            start="teacher",
        ),
        note=_LPIPS_NOTE,
    ),
    Preset(
        "ct-cifar10",
        "cm",
        _CM,
        said(
            CM_CODE,
            objective=dict(
                scales=SquareRootScales(2, 150),
                teacher_solver=None,
                decay=0.9,
                decay_count="intervals",
            ),
            start="random",
        ),
        note=_LPIPS_NOTE,
    ),
    Preset(
        "ict-cifar10",
        "ict",
        said(
            ICT,
            objective=dict(
                scales=DoublingScales(10, 1280),
                P_mean=-1.1,
                P_std=2.0,
                rho=7.0,
                distance=PseudoHuber(0.00054),
            ),
            train=dict(lr=1e-4, batch_size=1024, steps=400_000, ema=(0.99993,), **_RADAM),
            network="ncsnpp-cifar10",
            net=dict(dropout=0.3, fourier_scale=0.02),
            start="random",
        ),
        said(ECT_CODE + ", which samples at the same level", middle=0.821),
    ),
    Preset(
        "ect-cifar10",
        "ect",
        _ECT,
        note="sample with scalings shifted by 0.003, see `losses.ect`",
    ),
    Preset(
        "ect-cifar10-1hour",
        "ect",
        _ECT,
        said(
            ECT_HOUR, objective=dict(gap=SigmoidGap(q=256.0, stages=1)), train=dict(ema=(0.9993,))
        ),
        said(FASTGEN, train=dict(steps=8_000)),
        note="sample with scalings shifted by 0.003, see `losses.ect`",
    ),
    Preset(
        "sct-cifar10",
        "sct",
        _ECT.by(LIKE_ECT),
        said(
            SCT,
            objective=dict(
                gap=SigmoidGap(q=2.0, stages=8, smooth=True),
                weighting="inverse_step",
                reference="minibatch",
                zero_target="posterior",
            ),
        ),
    ),
    Preset(
        "tcm-cifar10-stage1",
        "ect",
        _TCM,
        said(
            TCM_CODE,
            objective=dict(
                density=TruncatedLogNormal(-1.1, 2.0, 0.002, 80.0),
                gap=SigmoidGap(q=2.0, stages=10, ratio_limit=0.999, floor=1e-6),
            ),
            train=dict(lr=1e-4, batch_size=512),
        ),
        said(
            "ten stages of 25,000 steps; where the run stopped: unverified",
            train=dict(steps=250_000),
        ),
        said(TCM_CODE + ", its default", middle=0.821),
    ),
    Preset(
        "tcm-cifar10-stage2",
        "tcm",
        _TCM,
        said(
            TCM_CODE,
            objective=dict(
                density=LogStudentT(0.0, 0.2, 0.01, 1.0, 80.0),
                gap=SigmoidGap(q=2.0**10, stages=1, ratio_limit=0.999, floor=1e-6),
                boundary=1.0,
                boundary_share=0.25,
                boundary_weight=0.1,
            ),
            train=dict(lr=5e-5, batch_size=1024),
        ),
        said(FASTGEN, train=dict(steps=300_000), middle=1.0),
        note="the teacher is the average of tcm-cifar10-stage1; below 1 sample with `Routed`",
    ),
    Preset(
        "scm-ct-cifar10",
        "scm",
        _SCM,
        said(SCM_PAPER, objective=dict(distil=False), net=dict(dropout=0.20)),
        said(FASTGEN, train=dict(steps=350_000)),
        said(SCM_PAPER + ": 10,000 steps", objective=dict(warmup=10_000 / 350_000)),
        note=_SCM_NOTE,
    ),
    Preset(
        "scm-cd-cifar10",
        "scm",
        _SCM,
        said(SCM_PAPER, objective=dict(distil=True), net=dict(dropout=0.0)),
        said(FASTGEN, train=dict(steps=500_000)),
        said(SCM_PAPER + ": 10,000 steps", objective=dict(warmup=10_000 / 500_000)),
        note=_SCM_NOTE,
    ),
    Preset("meanflow-cifar10", "meanflow", _MEANFLOW, note=_MEANFLOW_NOTE),
    Preset(
        "meanflow-cifar10-paper",
        "meanflow",
        _MEANFLOW,
        said(MEANFLOW_PAPER, objective=dict(times=PUBLISHED_TIMES["cifar10_paper"])),
        note=_MEANFLOW_NOTE,
    ),
)
