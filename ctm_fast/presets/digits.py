"""Presets for the embedded 8x8 digits: a minute or two on two cores each; nothing published.

`dsm-digits` trains the teacher that the others start from or distil.
"""

from __future__ import annotations

from typing import Any

from ..curricula import DoublingScales, FixedScales, SquareRootScales
from ..densities import HalfLogNormal, LogNormal, LogStudentT, TruncatedLogNormal
from ..gaps import SigmoidGap
from ..losses import Norm, PseudoHuber
from ..timesteps import TrajectoryLevels
from .preset import Preset, Said, said

OURS = "chosen for the embedded digits"
SCALED = "ECT's number for CIFAR-10 times sigma_data, 0.752/0.5"
METHOD = "as for CIFAR-10"
LOW, HIGH = 0.01, 20.0  # digits have 17 grey levels, 0.125 apart; 20 is 27 times their deviation
STEPS = 1200
MIDDLE = 1.235
_SHIFTED = -0.7  # -1.1 + ln(0.752/0.5)

_BASE = said(
    OURS,
    data="digits",
    sigma_min=LOW,
    sigma_max=HIGH,
    train=dict(
        steps=STEPS,
        batch_size=128,
        optimizer="adam",
        lr=1e-3,
        lr_warmup=50,
        lr_cooldown=STEPS * 3 // 4,
        ema=(),
        ema_halflife_kimg=(10.0,),
        ema_rampup=0.1,
        checkpoint_every=200,
        log_every=20,
    ),
)
_CONSISTENCY = said(OURS, network="digits", start="teacher", middle=MIDDLE)
_TRAJECTORY = said(OURS, network="ctm-digits", start="teacher")
_GRID = dict(sigma_min=LOW, sigma_max=HIGH)
_HUBER = PseudoHuber(0.03)
_ECT: dict[str, Any] = dict(distance=Norm(0.0), weighting="inverse_step")
_DENSITY = said(SCALED, objective=dict(density=LogNormal(_SHIFTED, 2.0)))


def _preset(name: str, objective: str, *sources: Said, note: str = "") -> Preset:
    return Preset(f"{name}-digits", objective, _BASE, *sources, note=note)


PRESETS = (
    _preset(
        "dsm",
        "dsm",
        said("Karras et al. 2022 (EDM), Table 1", objective=dict(density=LogNormal(-1.2, 1.2))),
        said(
            OURS,
            network="digits",
            start="random",
            train=dict(steps=1000, batch_size=256, lr=2e-3, lr_cooldown=750),
        ),
        note="the teacher of the other presets",
    ),
    _preset(
        "ctm",
        "ctm",
        _TRAJECTORY,
        said(
            OURS,
            objective=dict(
                num_scales=10,
                levels=TrajectoryLevels(max_steps=5, per_sample=True),
                distance=_HUBER,
                density=HalfLogNormal(sigma_min=LOW, sigma_max=HIGH),
            ),
            train=dict(lr=2e-3, target_ema=0.95),
        ),
    ),
    _preset(
        "cd",
        "cm",
        _CONSISTENCY,
        said(METHOD, objective=dict(scales=FixedScales(18), teacher_solver="heun")),
        said(OURS, objective=dict(distance=_HUBER, **_GRID)),
    ),
    _preset(
        "ct",
        "cm",
        _CONSISTENCY,
        said(METHOD, start="random", objective=dict(teacher_solver=None, decay=0.9)),
        said(OURS, objective=dict(scales=SquareRootScales(2, 50), distance=_HUBER, **_GRID)),
    ),
    _preset(
        "ict",
        "ict",
        _CONSISTENCY,
        said(METHOD, start="random"),
        said(
            OURS,
            objective=dict(scales=DoublingScales(10, 160), distance=_HUBER, P_std=2.0, **_GRID),
        ),
        said(SCALED, objective=dict(P_mean=_SHIFTED)),
    ),
    _preset(
        "ect",
        "ect",
        _CONSISTENCY,
        _DENSITY,
        said(METHOD, objective=_ECT),
        said(OURS, objective=dict(gap=SigmoidGap(q=2.0, stages=6))),
    ),
    _preset(
        "sct",
        "sct",
        _CONSISTENCY,
        _DENSITY,
        said(METHOD, objective=_ECT),
        said(
            OURS,
            objective=dict(
                gap=SigmoidGap(q=2.0, stages=6, smooth=True), reference="pool", references=64
            ),
        ),
    ),
    Preset(
        "tcm-digits-stage1",
        "ect",
        _BASE,
        _CONSISTENCY,
        said(METHOD, objective=dict(distance=Norm(1e-8), weighting="inverse_step")),
        said(
            OURS,
            objective=dict(
                density=TruncatedLogNormal(_SHIFTED, 2.0, LOW, HIGH),
                gap=SigmoidGap(q=2.0, stages=6, ratio_limit=0.999, floor=1e-6),
            ),
        ),
    ),
    Preset(
        "tcm-digits-stage2",
        "tcm",
        _BASE,
        _CONSISTENCY,
        said(
            METHOD,
            objective=dict(
                distance=Norm(1e-8),
                weighting="inverse_step",
                boundary=1.0,
                boundary_share=0.25,
                boundary_weight=0.1,
            ),
        ),
        said(
            OURS,
            objective=dict(
                density=LogStudentT(0.0, 0.2, 0.01, 1.0, HIGH),
                gap=SigmoidGap(q=2.0**6, stages=1, ratio_limit=0.999, floor=1e-6),
            ),
            train=dict(lr=5e-4),
        ),
        note="the teacher is the model of tcm-digits-stage1",
    ),
    _preset(
        "scm-ct",
        "scm",
        _CONSISTENCY,
        said(METHOD, objective=dict(distil=False, offset=0.1)),
        said(OURS, objective=dict(warmup=0.25, density=LogNormal(-0.6, 1.4))),
    ),
    _preset(
        "scm-cd",
        "scm",
        _CONSISTENCY,
        said(METHOD, objective=dict(distil=True, offset=0.1)),
        said(OURS, objective=dict(warmup=0.25, density=LogNormal(-0.6, 1.4))),
    ),
    _preset(
        "meanflow",
        "meanflow",
        said(OURS, network="ctm-digits", start="random"),
        said(METHOD, objective=dict(power=0.75, eps=1e-3)),
    ),
    _preset(
        "ayf",
        "ayf",
        _TRAJECTORY,
        said(OURS, objective=dict(guidance=1.0, warmup=0.25)),
        said("Sabour et al. 2025 (AYF)", objective=dict(limit=0.99, offset=0.1)),
    ),
    _preset(
        "pd",
        "pd",
        said(OURS, network="digits", start="teacher", objective=dict(steps=8, **_GRID)),
        note="repeat with half the steps and the result as teacher",
    ),
)
