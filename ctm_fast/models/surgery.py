"""`student_from`: a trajectory network that starts from a denoiser's weights."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import torch
from torch import nn

from .presets import net_from_config
from .unet import UNet

D = TypeVar("D", bound=nn.Module)


def student_from(teacher: D, seed: int = 0) -> D:
    """`Denoiser` that can jump, with the teacher's weights and a new destination embedding.

    Parameters and buffers of the same name are copied; the destination layers keep their ordinary
    random initial values, so at first the student is close to, not equal to, the teacher. The
    augmentation-label layer is left out: a student is trained and sampled without augmentation
    labels, and for none of them the layer contributes nothing. Preconditioning and sigma range are
    the teacher's. The student is in training mode, on the teacher's device, in its dtype.

    Args:
        teacher: a `Denoiser` around a network of `ctm_fast.models`.
        seed: of the destination layers.

    Raises:
        ValueError: if the teacher's network is not one of ours.

    Source: sony/ctm, cm_train.py.
    """
    net = student_net(teacher.net, seed)  # type: ignore[arg-type]
    return type(teacher)(
        net,
        teacher.precond,
        kind="trajectory",
        sigma_min=teacher.sigma_min,
        sigma_max=teacher.sigma_max,
        dtype=teacher.dtype,
    )


def student_net(net: UNet, seed: int = 0) -> UNet:
    """Copy of `net` with a new destination embedding; see `student_from`.

    Raises:
        ValueError: if `net` is not a network of `ctm_fast.models`.
    """
    if not isinstance(net, UNet):
        raise ValueError(f"a student needs a network of ctm_fast.models, got {type(net).__name__}")
    config = dataclasses.replace(net.config, destination=True, augment_dim=0)
    student = net_from_config(config, seed=seed)
    own = student.state_dict()
    kept = {name: value for name, value in net.state_dict().items() if name in own}
    student.load_state_dict({**own, **kept})
    reference = next(net.parameters())
    student.to(device=reference.device, dtype=reference.dtype)
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return student
