"""Presets for ImageNet-64, class-conditional, 64x64; the data set is the user's."""

from __future__ import annotations

from ..curricula import DoublingScales, FixedScales, SquareRootScales
from ..densities import LogNormal, LogStudentT, TruncatedLogNormal
from ..gaps import SigmoidGap
from ..losses import LPIPS, Norm, PseudoHuber
from .preset import Preset, said

CM_CODE = "openai/consistency_models, launch scripts"
ICT = "unverified: Song & Dhariwal 2023 (iCT), no published code"
ECT_CODE = "locuslab/ect (branch imgnet), run_imgnet_ecm.sh"
SCT = "unverified: Wang et al. 2024 (SCT), no published code"
LIKE_ECT = "unverified: as ECT, which SCT builds on"
FASTGEN = "NVlabs/FastGen, its own configuration of the method"
TCM_CODE = "NVlabs/tcm, README scripts (EDM2-S)"
SCM_PAPER = "Lu & Song 2024 (sCM), Appendix (size S)"
AYF_PAPER = "Sabour et al. 2025 (AYF)"
OURS = "chosen: EDM2's networks are not in this library"
NOT_EDM2 = (
    "the published network is EDM2's, with normalised weights, which this library has not: its "
    "learning rate and its averages (power functions of the step) do not carry over to this one"
)
POWER_EMA = "unverified: constant decay in the place of a power-function average"

_CM = said(
    CM_CODE,
    train=dict(
        optimizer="radam", batch_size=2048, precision="fp16", ema=(0.999, 0.9999, 0.99994322)
    ),
    objective=dict(distance=LPIPS(), weighting="uniform", rho=7.0),
    network="adm-imagenet64",
    net=dict(dropout=0.0),
    start="teacher",
    sigma_min=0.002,
    sigma_max=80.0,
)
_LPIPS_NOTE = "LPIPS needs weight files, see its fields"
_ADM = said(OURS, network="adm-imagenet64")
_ECT = said(
    ECT_CODE,
    objective=dict(
        density=LogNormal(-0.8, 1.6),
        gap=SigmoidGap(q=4.0, stages=4, k=8.0, b=1.0),
        distance=Norm(0.06),
        weighting="karras",
    ),
    train=dict(
        steps=100_000,
        batch_size=128,
        optimizer="adam",
        lr=1e-3,
        betas=(0.9, 0.99),
        lr_decay_from=2_000,
        ema=(0.9999,),
        precision="fp32",
    ),
    net=dict(dropout=0.40),
    start="teacher",
    middle=1.526,
)
_TCM = said(
    TCM_CODE,
    objective=dict(distance=Norm(0.06), weighting="karras"),
    train=dict(optimizer="adam", betas=(0.9, 0.99), precision="fp16"),
    net=dict(dropout=0.4),
    start="teacher",
)
_SCM = said(
    SCM_PAPER,
    objective=dict(density=LogNormal(-1.0, 1.6), normalisation="norm", offset=0.1),
    train=dict(
        optimizer="adam",
        lr=1e-4,
        betas=(0.9, 0.99),
        eps=1e-11,
        lr_decay_from=35_000,
        batch_size=2048,
        steps=400_000,
    ),
    start="teacher",
    middle=0.982,
)
_WARMUP = said(SCM_PAPER + ": 10,000 steps", objective=dict(warmup=10_000 / 400_000))
_CONSTANT = said(POWER_EMA, train=dict(ema=(0.9999,)))

PRESETS = (
    Preset(
        "cd-imagenet64",
        "cm",
        _CM,
        said(
            CM_CODE,
            objective=dict(scales=FixedScales(40), teacher_solver="heun", decay=0.95),
            train=dict(lr=8e-6, steps=600_000),
        ),
        said("greedy search, published command: index 22 of 40", middle=1.382),
        note=_LPIPS_NOTE,
    ),
    Preset(
        "ct-imagenet64",
        "cm",
        _CM,
        said(
            CM_CODE,
            objective=dict(scales=SquareRootScales(2, 200), teacher_solver=None, decay=0.95),
            train=dict(lr=1e-4, steps=800_000),
        ),
        said("greedy search, published command: index 106 of 201", middle=1.913),
        note=_LPIPS_NOTE + "; the published command starts from a teacher's weights, too",
    ),
    Preset(
        "ict-imagenet64",
        "ict",
        said(
            ICT,
            objective=dict(
                scales=DoublingScales(10, 1280),
                P_mean=-1.1,
                P_std=2.0,
                distance=PseudoHuber(0.00054),
            ),
            train=dict(optimizer="radam", lr=1e-4, batch_size=4096, steps=800_000, ema=(0.99997,)),
            network="adm-imagenet64",
            net=dict(dropout=0.2),
            start="random",
        ),
        said(ECT_CODE + ", which samples at the same level", middle=1.526),
        note="the paper drops at low resolutions only; here everywhere",
    ),
    Preset("ect-imagenet64", "ect", _ECT, _ADM, note=NOT_EDM2),
    Preset(
        "sct-imagenet64",
        "sct",
        _ECT.by(LIKE_ECT),
        said(
            SCT,
            objective=dict(
                gap=SigmoidGap(q=2.0, stages=8, smooth=True),
                weighting="inverse_step",
                reference="minibatch",
            ),
        ),
        _ADM,
        note=NOT_EDM2
        + "; with labels a class has few images in a batch: --objective.reference pool",
    ),
    Preset(
        "tcm-imagenet64-stage1",
        "ect",
        _TCM,
        said(
            TCM_CODE,
            objective=dict(
                density=TruncatedLogNormal(-0.8, 1.6, 0.002, 80.0),
                gap=SigmoidGap(q=4.0, stages=4, ratio_limit=0.9961, floor=1e-6),
            ),
            train=dict(lr=1e-3, batch_size=2048, lr_decay_from=2_000),
        ),
        said(
            "four stages of 10,000 steps; where the run stopped: unverified",
            train=dict(steps=40_000),
        ),
        said(FASTGEN, middle=1.526),
        _CONSTANT,
        _ADM,
        note=NOT_EDM2,
    ),
    Preset(
        "tcm-imagenet64-stage2",
        "tcm",
        _TCM,
        said(
            TCM_CODE,
            objective=dict(
                density=LogStudentT(0.0, 0.2, 0.01, 1.0, 80.0),
                gap=SigmoidGap(q=4.0**4, stages=1, ratio_limit=0.9961, floor=1e-6),
                boundary=1.0,
                boundary_share=0.25,
                boundary_weight=0.1,
            ),
            train=dict(lr=5e-4, batch_size=1024, lr_decay_from=8_000),
        ),
        said(FASTGEN, train=dict(steps=400_000), middle=1.526),
        _CONSTANT,
        _ADM,
        note=NOT_EDM2 + "; the teacher is the average of tcm-imagenet64-stage1",
    ),
    Preset(
        "scm-ct-imagenet64",
        "scm",
        _SCM,
        _WARMUP,
        said(SCM_PAPER, objective=dict(distil=False), net=dict(dropout=0.45)),
        _CONSTANT,
        _ADM,
        note=NOT_EDM2,
    ),
    Preset(
        "scm-cd-imagenet64",
        "scm",
        _SCM,
        _WARMUP,
        said(SCM_PAPER, objective=dict(distil=True), net=dict(dropout=0.0)),
        _CONSTANT,
        _ADM,
        note=NOT_EDM2,
    ),
    Preset(
        "ayf-imagenet64",
        "ayf",
        said(AYF_PAPER, objective=dict(limit=0.99, offset=0.1)),
        said(
            "unverified: no published code",
            objective=dict(guidance=2.0, warmup=0.1),
            train=dict(
                optimizer="adam",
                lr=1e-4,
                betas=(0.9, 0.99),
                batch_size=2048,
                steps=50_000,
                ema=(0.9999,),
            ),
            net=dict(dropout=0.0),
            start="teacher",
        ),
        said(OURS, network="ctm-adm-imagenet64"),
        note=NOT_EDM2
        + "; autoguidance needs a weak model; the paper's adversarial end is not here",
    ),
)
