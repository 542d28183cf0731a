"""Training objectives and their parts."""

from ..registry import Registry
from .ctm import CTM
from .distances import DISTANCES, L1, L2, LPIPS, PseudoHuber, TeacherFeatures
from .dsm import DSM
from .objective import Balance, Batch, Models, Objective, evaluate

OBJECTIVES = Registry(
    "objective",
    {
        "ctm": "ctm_fast.losses.ctm:CTM",
        "dsm": "ctm_fast.losses.dsm:DSM",
    },
)

__all__ = [
    "CTM", "DISTANCES", "DSM", "L1", "L2", "LPIPS", "OBJECTIVES", "Balance", "Batch", "Models",
    "Objective", "PseudoHuber", "TeacherFeatures", "evaluate",
]  # fmt: skip
