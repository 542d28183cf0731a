"""Things that look like a `Denoiser` and contain something else: `wrap` takes any callable."""

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
from .wrap import KINDS, is_model, wrap
from .wrapped import Wrapped

__all__ = [
    "KINDS",
    "TIMES",
    "ADMTime",
    "DiffusersTime",
    "FlowMatchingTime",
    "FlowTime",
    "Group",
    "Guided",
    "RawSigma",
    "Routed",
    "Time",
    "TrigFlowTime",
    "Wrapped",
    "is_model",
    "wrap",
]
