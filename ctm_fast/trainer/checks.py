"""Whether objective, networks and data fit together, said before the first step."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..data import ImageDataset
from ..data.augment import LABELS
from ..denoiser import Denoiser
from ..losses.objective import Objective

NEEDS = frozenset({"target", "teacher"})


def check_objective(objective: Objective, teacher: Any) -> None:
    """Raise ValueError unless the trainer can give the objective what it needs."""
    unknown = sorted(set(objective.needs) - NEEDS)
    if unknown:
        raise ValueError(f"objective needs {unknown}; the trainer can build {sorted(NEEDS)}")
    if "teacher" in objective.needs and teacher is None:
        raise ValueError(f"{type(objective).__name__} needs a teacher; give teacher=...")
    if "teacher" in objective.needs:
        _check_teacher(objective, teacher)
    if not objective.terms:
        raise ValueError(f"{type(objective).__name__} has no terms")
    wrong = sorted(set(objective.balance) - set(objective.terms[1:]))
    if wrong:
        raise ValueError(
            f"adaptive weights for {wrong}; only terms after the first, {objective.terms[1:]}, "
            "can have one"
        )


def _check_teacher(objective: Objective, teacher: Any) -> None:
    name, kind = type(objective).__name__, getattr(teacher, "kind", None)
    wanted = getattr(objective, "teacher_kind", None)
    if wanted is not None and kind != wanted:
        raise ValueError(f"{name} needs a teacher of kind {wanted!r}, got kind {kind!r}")
    # A network that jumps anywhere denoises too; one that only jumps to sigma_min does not.
    if wanted is None and kind == "consistency":
        raise ValueError(
            f"{name} needs a teacher that denoises, of kind 'denoiser'; got kind 'consistency', "
            "a model that was distilled already"
        )


def check_networks(student: Denoiser, teacher: Any) -> None:
    """Raise ValueError unless the student can be trained, beside its teacher.

    Averages with decay 0.999 and Adam's small updates vanish in half precision, so weights have to
    be float32 (or float64).
    """
    trained = False
    for name, weight in student.named_parameters():
        trained = trained or weight.requires_grad
        if weight.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"student weight {name} is {weight.dtype}; training needs float32 weights "
                "(precision='bf16' or 'fp16' sets the dtype of the computation)"
            )
    if not trained:
        raise ValueError("no weight of the student requires a gradient")
    if not isinstance(teacher, nn.Module):
        return
    shared = {id(p) for p in student.parameters()} & {id(p) for p in teacher.parameters()}
    if shared:
        raise ValueError("student and teacher share weights; use student_from(teacher), or a copy")
    for name in ("img_channels", "img_resolution"):
        own, other = getattr(student, name), getattr(teacher, name, None)
        if other is not None and own != other:
            raise ValueError(f"student has {name}={own}, teacher has {other}")


def check_augmentation(probability: float, objective: Objective, student: Denoiser) -> None:
    """Raise ValueError unless images may be augmented with that probability."""
    if not probability:
        return
    if not getattr(objective, "augmentable", False):
        raise ValueError(
            f"augment={probability} is for objectives that tell the network of it, such as DSM; "
            f"{type(objective).__name__} needs augment=0"
        )
    width = getattr(student.net, "augment_dim", 0)
    if width != LABELS:
        raise ValueError(
            f"augment={probability} needs a network with augment_dim={LABELS}, got {width}; set "
            f"it (--net-options augment_dim={LABELS}), or augment=0"
        )


def check_data(student: Denoiser, data: ImageDataset) -> None:
    """Raise ValueError unless the student takes the data's images and labels."""
    wanted = (student.img_channels, student.img_resolution, student.img_resolution)
    if len(data) == 0:
        raise ValueError(f"data {data.name!r} is empty")
    if tuple(data.shape) != wanted:
        raise ValueError(
            f"data {data.name!r} has images of shape {tuple(data.shape)}; "
            f"the student takes {wanted}"
        )
    if student.label_dim and not data.label_dim:
        raise ValueError(
            f"the student takes {student.label_dim} classes, but data {data.name!r} has no labels"
        )
    if student.label_dim and data.label_dim > student.label_dim:
        raise ValueError(
            f"data {data.name!r} has {data.label_dim} classes; the student takes "
            f"{student.label_dim}"
        )
