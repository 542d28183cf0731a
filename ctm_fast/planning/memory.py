"""Memory of a training process, term by term of its sum."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from ..losses import LPIPS
from ..models.configs import Config
from ..trainer.config import PRECISIONS, TrainConfig
from .calls import Calls
from .flops import parameters
from .sizes import frozen_bytes, training_bytes

# Of VGG16 at 224 x 224 pixels, per image: values kept of a target, and bytes of the passes of a
# target and of an estimate, by the bytes of a value. See `LPIPS`.
VGG_KEPT = 6_121_472
VGG_TARGET, VGG_ESTIMATE = {4: 25_700_000, 2: 12_900_000}, {4: 99_100_000, 2: 62_900_000}
VGG_AT_ONCE = 32
# Activations of a discriminator's backbones at 224 x 224 pixels per image, float32, roughly.
TIMM_ESTIMATE = {
    "deit_base_distilled_patch16_224": 117_000_000,
    "deit_small_distilled_patch16_224": 58_000_000,
    "deit_tiny_distilled_patch16_224": 29_000_000,
    "tf_efficientnet_lite0": 60_000_000,
}
TIMM_WEIGHTS = {
    "deit_base_distilled_patch16_224": 87_300_000,
    "deit_small_distilled_patch16_224": 22_400_000,
    "deit_tiny_distilled_patch16_224": 5_900_000,
    "tf_efficientnet_lite0": 3_000_000,
}


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at the highest point of a step."""

    weights: int  # of the student
    gradients: int  # one set, two where terms are balanced
    moments: int  # of the optimizer
    averages: int
    target: int
    teacher: int
    judge: int  # frozen backbones of a discriminator
    targets: int  # what is kept of the targets of this process's share of the batch
    passing: int  # activations of a microbatch, or of a teacher solve where that is more

    @property
    def total(self) -> int:
        """The sum."""
        return sum(dataclasses.astuple(self))


@dataclass(frozen=True)
class Networks:
    """What a run trains and what it asks."""

    student: Config
    teacher: Config | None
    teacher_dtype: torch.dtype = torch.float32


def memory_of(
    objective: Any,
    calls: Calls,
    networks: Networks,
    config: TrainConfig,
    *,
    processes: int = 1,
    microbatch: int | None = None,
) -> Memory:
    """Memory of one of `processes` processes.

    Activations are those of a pass through the same networks on tensors without data, so of the
    ops that this machine's CPU chooses; convolution workspaces, what an allocator loses between
    blocks, and a GPU's context (about half a GB) come on top; so do the heads of a discriminator.

    Args:
        objective: has needs, terms and perhaps distance.
        calls: its evaluations.
        networks: configurations.
        config: batch, precision, averages.
        processes: among which the batch is divided.
        microbatch: images per backward pass; by default that of `config`, else the whole share.
    """
    size, share = parameters(networks.student), -(-config.batch_size // processes)
    micro = min(microbatch or config.microbatch or share, share)
    dtype = PRECISIONS[config.precision]
    half = 0 if dtype is None else 2 * size
    student = training_bytes(networks.student, dtype, carried=calls.through > 0)
    lpips = isinstance(getattr(objective, "distance", None), LPIPS)
    width = 4 if lpips and objective.distance.dtype == "float32" else 2
    backbones = getattr(getattr(objective, "gan", None), "backbones", ())
    judges = [getattr(backbone, "model", "") for backbone in backbones]
    # Terms in turn let go of what the one before compared with.
    compared = VGG_ESTIMATE[width] if lpips else 0, sum(TIMM_ESTIMATE.get(j, 0) for j in judges)
    growing = student + (sum(compared) if config.one_pass else max(compared))
    balanced = len(objective.terms) > 1 and not config.one_pass
    # In the first microbatch gradients come as activations go; later ones find them there.
    backward = growing * micro - (4 * size if micro == share else 0)
    teacher = networks.teacher
    weight_size = networks.teacher_dtype.itemsize
    solving = 0
    if teacher is not None and calls.teacher:
        slots = getattr(objective, "teacher_slots", None)
        solving = frozen_bytes(teacher, networks.teacher_dtype) * min(slots or share, share)
    if lpips:
        solving = max(solving, VGG_TARGET[width] * min(VGG_AT_ONCE, share))
    target = "target" in objective.needs
    return Memory(
        weights=4 * size + half,
        gradients=4 * size * (2 if balanced else 1),
        moments=8 * size,
        averages=4 * size * (len(config.ema) + len(config.ema_halflife_kimg)),
        target=(4 * size + half) if target else 0,
        teacher=0 if teacher is None or not calls.teacher else parameters(teacher) * weight_size,
        judge=4 * sum(TIMM_WEIGHTS.get(j, 0) for j in judges),
        targets=VGG_KEPT * width * share if lpips else 0,
        passing=max(backward, solving - (4 * size if balanced else 0), 0),
    )
