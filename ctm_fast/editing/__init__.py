"""Editing without training: inpainting, colours, details, strokes and paths between images."""

from .encoder import Encoder
from .interpolation import Interpolator, slerp
from .known import Known
from .operators import Colourisation, Inpainting, Operator, SuperResolution
from .restorer import Restorer
from .stroke import StrokePainter

__all__ = [
    "Colourisation",
    "Encoder",
    "Inpainting",
    "Interpolator",
    "Known",
    "Operator",
    "Restorer",
    "StrokePainter",
    "SuperResolution",
    "slerp",
]
