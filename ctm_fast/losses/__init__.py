"""Training objectives and their parts."""

from ..registry import Registry
from .ayf import AYF
from .cm import CM
from .consistency import Consistency
from .ctm import CTM
from .ctm_gan import CTMGAN
from .distances import DISTANCES, L1, L2, LPIPS, Norm, PseudoHuber, TeacherFeatures
from .dsm import DSM
from .ect import ECT
from .gan import GAN
from .ict import ICT
from .meanflow import MeanFlow
from .objective import Balance, Batch, Models, Objective, evaluate
from .progressive import PD
from .scm import SCM
from .sct import SCT
from .tcm import TCM

OBJECTIVES = Registry(
    "objective",
    {
        "ayf": "ctm_fast.losses.ayf:AYF",
        "cm": "ctm_fast.losses.cm:CM",
        "ctm": "ctm_fast.losses.ctm:CTM",
        "ctm_gan": "ctm_fast.losses.ctm_gan:CTMGAN",
        "dsm": "ctm_fast.losses.dsm:DSM",
        "ect": "ctm_fast.losses.ect:ECT",
        "ict": "ctm_fast.losses.ict:ICT",
        "meanflow": "ctm_fast.losses.meanflow:MeanFlow",
        "pd": "ctm_fast.losses.progressive:PD",
        "scm": "ctm_fast.losses.scm:SCM",
        "sct": "ctm_fast.losses.sct:SCT",
        "tcm": "ctm_fast.losses.tcm:TCM",
    },
)

__all__ = [
    "AYF", "CM", "CTM", "CTMGAN", "DISTANCES", "DSM", "ECT", "GAN", "ICT", "L1", "L2", "LPIPS",
    "OBJECTIVES", "PD", "SCM", "SCT", "TCM", "Balance", "Batch", "Consistency", "MeanFlow",
    "Models", "Norm", "Objective", "PseudoHuber", "TeacherFeatures", "evaluate",
]  # fmt: skip
