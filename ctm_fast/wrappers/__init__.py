"""Things that look like a `Denoiser` and contain something else: `wrap` takes any callable."""

from .classifier_guided import ClassifierGuided
from .group import Group
from .guidance import Guided
from .routed import Routed
from .times import (
    TIMES,
    ADMTime,
    DiffusersTime,
    FlowMatchingTime,
    FlowTime,
    RawSigma,
    Time,
    TrigFlowTime,
)
from .vp_classifier import CosineTime, LinearTime, VPClassifier
from .wrap import KINDS, is_model, wrap
from .wrapped import Wrapped

__all__ = [
    "KINDS",
    "TIMES",
    "ADMTime",
    "ClassifierGuided",
    "CosineTime",
    "DiffusersTime",
    "FlowMatchingTime",
    "FlowTime",
    "Group",
    "Guided",
    "LinearTime",
    "RawSigma",
    "Routed",
    "Time",
    "TrigFlowTime",
    "VPClassifier",
    "Wrapped",
    "is_model",
    "wrap",
]
