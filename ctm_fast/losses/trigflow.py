"""TrigFlow's view of EDM networks and of teachers. Lu & Song 2024 (sCM), arXiv:2410.11081.

Legend: t = arctan(sigma/sd), x = cos t x0 + sin t sd n, sd is sigma_data. With EDM scalings
c_in and c_skip give x/sd and cos t x, so an EDM network F is TrigFlow's up to the sign: the
denoised image is cos t x + sd sin t F(x/sd).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..denoiser import Denoiser
from ..wrappers.guidance import Guided
from ..wrappers.times import TrigFlowTime
from .objective import Models


def column(values: Tensor, x: Tensor) -> Tensor:
    """(batch,) values as (batch, 1, ..., 1) in x's dtype."""
    return values.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def cos_sin(sigma: Tensor, sigma_data: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """cos t and sin t as columns in x's dtype."""
    cos = TrigFlowTime(sigma_data).scale(sigma)
    return column(cos, x), column(cos * sigma / sigma_data, x)


def raw(student: Denoiser, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
    """F(x/sd, t) of an EDM network, (batch, C, H, W) in x's dtype; x is TrigFlow's."""
    c_noise = student.precond.c_noise(sigma).to(x.dtype)
    F: Tensor = student.raw(x / student.sigma_data, c_noise, None, labels).to(x.dtype)
    return F


def teacher_velocity(
    models: Models,
    x: Tensor,
    sigma: Tensor,
    labels: Tensor | None,
    sigma_data: float,
    guidance: float = 1.0,
) -> Tensor:
    """dx/dt = (cos t x - D)/sin t on the teacher's trajectory, (batch, C, H, W) in x's dtype.

    Args:
        models: their teacher gives D, guided by `models.weak`, or by itself without labels.
        x: (batch, C, H, W), TrigFlow's noisy images.
        sigma: (batch,) float64 noise levels, > 0.
        labels: as of `Denoiser`, or None.
        sigma_data: sd of TrigFlow.
        guidance: weight of the guidance, 1 for none.

    Raises:
        ValueError: without a teacher, or for one that cannot be guided.
    """
    teacher: Any = models.teacher
    if teacher is None:
        raise ValueError("sCD needs a teacher; give one, or train without one by distil=False")
    if guidance != 1:
        teacher = Guided(teacher, models.weak, weight=guidance)
    # In float64 nothing is lost where D and cos t x are close, and the network computes as always.
    wide = x.double()
    cos, sin = cos_sin(sigma, sigma_data, wide)
    return ((cos * wide - teacher(wide / cos, sigma, labels)) / sin).to(x.dtype)
