"""Students that start from a denoiser's weights: `student_from` and `consistency_from`."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import torch
from torch import nn

from .levels import blocks_of
from .presets import net_from_config
from .unet import UNet

D = TypeVar("D", bound=nn.Module)


def student_from(teacher: D, seed: int = 0, *, exact: bool = False) -> D:
    """`Denoiser` that can jump, with the teacher's weights and a new destination embedding.

    Parameters and buffers of the same name are copied; the destination layers keep their ordinary
    random initial values, so at first the student is close to, not equal to, the teacher. The
    augmentation-label layer is left out: a student is trained and sampled without augmentation
    labels, and for none of them the layer contributes nothing. Preconditioning and sigma range are
    the teacher's. The student is in training mode, on the teacher's device, in its dtype.

    Args:
        teacher: a `Denoiser` around a network of `ctm_fast.models`.
        seed: of the destination layers.
        exact: the destination begins without any effect, so that the student denoises as the
            teacher does and jumps by an Euler step; its layers learn as ever.

    Raises:
        ValueError: if the teacher's network is not one of ours.

    Source: sony/ctm, cm_train.py.
    """
    net = student_net(teacher.net, seed)  # type: ignore[arg-type]
    if exact:
        for block in (*blocks_of(net.enc), *blocks_of(net.dec)):
            assert block.affine_to is not None
            nn.init.zeros_(block.affine_to.weight)
            nn.init.zeros_(block.affine_to.bias)
    return type(teacher)(
        net,
        teacher.precond,
        kind="trajectory",
        sigma_min=teacher.sigma_min,
        sigma_max=teacher.sigma_max,
        dtype=teacher.dtype,
    )


def consistency_from(
    teacher: D,
    *,
    kind: str = "consistency",
    inner: Any = None,
    dropout: float | None = None,
) -> D:
    """`Denoiser` of kind "consistency" with a copy of the teacher's weights, nothing new.

    It begins as the teacher: what a diffusion model denoises to is a first guess of where the
    trajectory ends. Sigma range and noise embedding are the teacher's; the augmentation-label layer
    is left out, as in `student_from`. The student is in training mode, on the teacher's device, in
    its dtype.

    Args:
        teacher: a `Denoiser` of kind "denoiser" or "consistency" around a network of
            `ctm_fast.models`.
        kind: "consistency", or "denoiser" for progressive distillation.
        inner: inner scalings instead of the teacher's, for example `CM(sigma_data)`.
        dropout: probability in [0, 1) instead of that in the teacher's network.

    Raises:
        ValueError: if the teacher's network is not one of ours, or for a model that jumps anywhere.

    Source: Geng et al. 2024 (ECT); openai/consistency_models, which copies its teacher too.
    """
    if getattr(teacher, "kind", None) == "trajectory":
        raise ValueError(
            "a consistency student has no destination embedding and cannot start from a trajectory "
            "model; give a diffusion or a consistency model"
        )
    options = {} if dropout is None else {"dropout": dropout}
    net = copied_net(teacher.net, **options)  # type: ignore[arg-type]
    precond: Any = teacher.precond
    return type(teacher)(
        net,
        precond if inner is None else dataclasses.replace(precond, inner=inner),
        kind=kind,
        sigma_min=teacher.sigma_min,
        sigma_max=teacher.sigma_max,
        dtype=teacher.dtype,
    )


def student_net(net: UNet, seed: int = 0) -> UNet:
    """Copy of `net` with a new destination embedding; see `student_from`.

    Raises:
        ValueError: if `net` is not a network of `ctm_fast.models`.
    """
    return copied_net(net, seed, destination=True)


def copied_net(net: UNet, seed: int = 0, **changes: Any) -> UNet:
    """Channels-last copy of `net` without augmentation labels, its configuration changed.

    Args:
        net: weights of the same name are copied.
        seed: of the layers that are new.
        changes: of its configuration.

    Raises:
        ValueError: if `net` is not a network of `ctm_fast.models`.
    """
    if not isinstance(net, UNet):
        raise ValueError(f"a student needs a network of ctm_fast.models, got {type(net).__name__}")
    config = dataclasses.replace(net.config, augment_dim=0, **changes)
    student = net_from_config(config, seed=seed)
    reference = next(net.parameters())
    student.to(device=reference.device, dtype=reference.dtype)
    own = student.state_dict()
    kept = {name: value for name, value in net.state_dict().items() if name in own}
    student.load_state_dict({**own, **kept})
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return student
