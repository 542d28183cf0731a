"""What a sampler is told about a model that is no `Denoiser`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import InitVar
from typing import Any

from ..wrappers import wrap


@dataclasses.dataclass(frozen=True, kw_only=True)
class Foreign:
    """Keywords of `wrap` as arguments of a dataclass: they are used up when it is made."""

    kind: InitVar[str | None] = None  # what a callable computes: denoiser, consistency, trajectory,
    # velocity, average_velocity
    time: InitVar[Any] = None  # how it is told the noise level: edm, adm, diffusers, flow, ...
    prediction: InitVar[str | None] = None  # what it answers: image, epsilon, v, F
    shape: InitVar[Sequence[int] | None] = None  # of its images, (C, H, W)
    label_dim: InitVar[int | None] = None  # number of its classes
    labels: InitVar[str | None] = None  # how it takes them: int, onehot
    sigma_min: InitVar[float | None] = None  # smallest level that it is asked for
    sigma_max: InitVar[float | None] = None  # largest one
    sigma_data: InitVar[float | None] = None  # of adm and trigflow
    call: InitVar[Callable[..., Any] | None] = None  # how it is called


NAMES = tuple(Foreign.__dataclass_fields__)


def wrapped(model: Any, *options: Any) -> Any:
    """The model as `wrap` makes it.

    Args:
        model: a `Denoiser`, or any callable.
        options: values of the fields of `Foreign`, in their order.

    Raises:
        ValueError: as `wrap`.
    """
    return wrap(model, **dict(zip(NAMES, options, strict=True)))
