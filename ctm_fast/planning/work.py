"""Work of a training step in floating-point operations."""

from __future__ import annotations

from typing import Any

from ..losses import LPIPS
from ..models.configs import Config
from ..models.feature_nets import TeacherEncoder
from .calls import Calls
from .sizes import encoding_flops, forward_flops, training_flops

# VGG16's convolutions on one image of 224 x 224 pixels, forward; see `LPIPS`.
VGG16 = 30.69e9
# Backbones of a discriminator, forward, at 224 x 224 pixels; multiply-adds of their published
# sizes, without projector and heads.
TIMM_FLOPS = {
    "deit_base_distilled_patch16_224": 35.3e9,
    "deit_small_distilled_patch16_224": 9.2e9,
    "deit_tiny_distilled_patch16_224": 2.5e9,
    "tf_efficientnet_lite0": 0.8e9,
}


def step_flops(calls: Calls, student: Config, teacher: Config | None, objective: Any) -> float:
    """Floating-point operations per image and step; of a discriminator those of its backbones.

    A backward to the input alone counts as one forward, a derivative in forward mode as two.

    Args:
        calls: evaluations per image.
        student: configuration of the trained network.
        teacher: of the frozen one; None if there is none.
        objective: whose distance may be LPIPS, which costs three passes of its own network for
            each estimate, and whose discriminator has backbones.
    """
    total = calls.trained * training_flops(student)
    total += forward_flops(student) * (calls.frozen + 2 * calls.through + 3 * calls.tangents)
    if teacher is not None:
        encoded = calls.features + 2 * calls.features_through
        total += calls.teacher * forward_flops(teacher)
        total += encoded * encoding_flops(teacher) if encoded else 0.0
    if isinstance(getattr(objective, "distance", None), LPIPS):
        total += 3 * calls.distances * VGG16
    backbones = getattr(getattr(objective, "gan", None), "backbones", ())
    seen = calls.judged + 2 * calls.judged_through
    return total + seen * sum(_backbone_flops(backbone, teacher) for backbone in backbones)


def _backbone_flops(backbone: Any, teacher: Config | None) -> float:
    if isinstance(backbone, TeacherEncoder):
        return 0.0 if teacher is None else encoding_flops(teacher)
    return TIMM_FLOPS.get(getattr(backbone, "model", ""), 0.0)
