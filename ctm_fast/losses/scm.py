"""Continuous-time consistency models (sCM): sCT and sCD. Lu & Song 2024, arXiv:2410.11081.

The five choices: levels sigma from a density; the pair is infinitely close, so there is a velocity
instead of a second point, the data's (sCT) or a teacher's (sCD); the student jumps at both ends,
without gradient at the lower one; squared distance to a normalised tangent; learned weight.

Legend: t = arctan(sigma/sd), x = cos t x0 + sin t sd n, v = dx/dt, sd is sigma_data. An EDM network
F is TrigFlow's up to the sign: f = cos t x + sd sin t F(x/sd, t).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..densities import AnyDensity, LogNormal
from ..noise_embeddings import DiscreteTime
from ..precond import EDM, Euler
from ..registry import choice
from ..wrappers.times import TrigFlowTime
from .consistency import check_student
from .learned_weight import LearnedWeight, weighted
from .objective import Batch, Models, OneTerm
from .tangents import NORMALISATIONS, check_method, check_normalisation, derivative
from .trigflow import column, cos_sin, raw, teacher_velocity


def _levels() -> LogNormal:
    return LogNormal(-1.0, 1.4)


@dataclass(frozen=True)
class SCM(OneTerm):
    """Trains a consistency model by its tangent, without time steps.

    L = e^w/D |F - F^- + g|^2 - w for the network F, F^- = stop_gradient F, D values per image, and

        g = cos^2 t (v + sd F^-) - r cos t sin t (x - sd dF^-/dt),

    which is normalised. With F instead of TrigFlow's -F this is Algorithm 1 of the paper. The
    derivative is taken in one pass in the dtype of the weights, with the estimate's dropout masks.

    The student is a `Denoiser` of kind "consistency" with EDM scalings, best initialised from a
    diffusion model; its noise embedding has to be smooth (Fourier scale about 0.02, or
    positional). Samples are best at sigma = sd tan(1.1), 0.982 for sd = 0.5, in the second step.

    Raises:
        ValueError: for values outside the range stated beside them.
    """

    term: ClassVar[str] = "consistency"
    student_kind: ClassVar[str] = "consistency"  # `kind` of the `Denoiser` that is trained

    # Table 4 of the paper: (-1.0, 1.4) CIFAR-10, (-1.0, 1.6) ImageNet-64, (-0.8, 1.6) ImageNet-512.
    density: AnyDensity = choice("ctm_fast.densities:DENSITIES", _levels)  # noise levels
    distil: bool = False  # sCD: the velocity is the teacher's; else sCT: the data's
    guidance: float = 1.0  # of the teacher, by the weak network or by leaving out labels; 1: none
    normalisation: str = "norm"  # of g: norm | rms | clip | none, see `losses.tangents`
    offset: float = 0.1  # c in g/(|g| + c), > 0
    # H = 10k steps in the paper, which is this share of its 400k.
    warmup: float = 0.025  # share of the training over which r grows from 0 to 1, in [0, 1]
    how: str = "forward"  # derivative: forward (exact) | difference, see `losses.tangents`
    learned_weighting: bool = True  # learn w(sigma); else it is 0
    companion_lr: float | None = None  # learning rate of w; None: the student's

    def __post_init__(self) -> None:
        check_method(self.how)
        check_normalisation(self.normalisation, self.offset)
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup must be in [0, 1], got {self.warmup}")
        if self.guidance != 1 and not self.distil:
            raise ValueError(f"guidance={self.guidance} is the teacher's; it needs distil=True")

    @property
    def needs(self) -> frozenset[str]:
        """The teacher, if there is one."""
        return frozenset({"teacher"} if self.distil else ())

    def companion(self, models: Models) -> nn.Module | None:
        """The learned weight."""
        return LearnedWeight() if self.learned_weighting else None

    def draw(
        self,
        batch_size: int,
        shape: tuple[int, ...],
        generator: torch.Generator,
        progress: float = 0.0,
    ) -> dict[str, Any]:
        """Noise levels, float64, and unit noise."""
        sigma = self.density.sample(batch_size, generator, torch.float64)
        noise = torch.randn(batch_size, *shape, generator=generator, device=generator.device)
        return {"sigma": sigma, "noise": noise}

    @torch.no_grad()
    def prepare(self, batch: Batch, models: Models, progress: float = 0.0) -> None:
        """The noisy image x and its velocity v.

        Raises:
            ValueError: for a student that does not suit, or without the teacher of sCD.
        """
        sd, draw, images = _checked(models), batch.draw, batch.images
        cos, sin = cos_sin(draw["sigma"], sd, images)
        noise = sd * draw["noise"]
        draw["x_t"] = cos * images + sin * noise
        if self.distil:
            velocity = teacher_velocity(
                models, draw["x_t"], draw["sigma"], batch.labels, sd, self.guidance
            )
        else:
            velocity = cos * noise - sin * images
        draw["velocity"] = velocity

    def loss(self, term: str, batch: Batch, models: Models, progress: float = 0.0) -> Tensor:
        """Weighted squared distance per image, (batch,); with learned weighting it may be negative.

        Raises:
            ValueError: for another term, or without the learned weight.
        """
        if term not in self.terms:
            raise ValueError(f"unknown term {term!r}; this objective has {self.terms}")
        slope = self.slope(batch, models)
        F = raw(models.student, batch.draw["x_t"], batch.draw["sigma"], batch.labels)
        g = self.tangent(F.detach(), slope, batch, models, progress)
        loss = ((F - F.detach() + g) ** 2).flatten(1).mean(1)
        if not self.learned_weighting:
            return loss
        if models.companion is None:
            raise ValueError("learned_weighting needs the companion; see `SCM.companion`")
        return weighted(loss, models.companion(batch.draw["sigma"]))

    def slope(self, batch: Batch, models: Models) -> Tensor:
        """cos t sin t dF/dt along the trajectory, (batch, C, H, W).

        The factor is a part of the direction, which keeps all that is between bounded at both ends
        of the noise levels. Source: sCM, Section 4.2 (JVP rearrangement).
        """
        student, draw = models.student, batch.draw
        x, sd, time = draw["x_t"], student.sigma_data, TrigFlowTime(student.sigma_data)
        t = time.time(draw["sigma"])
        own = next(student.net.parameters(), x).dtype

        def network(y: Tensor, t: Tensor) -> Tensor:
            # Not through `Denoiser.raw`: half precision would drown the slope.
            c_noise = student.precond.c_noise(time.sigma(t)).to(y.dtype)
            F: Tensor = student.net(y.to(own), c_noise, None, batch.labels)
            return F

        along = t.cos() * t.sin()
        moves = column(along, x) * draw["velocity"] / sd, along
        return derivative(network, (x / sd, t), moves, self.how).to(x.dtype)

    def tangent(
        self, F: Tensor, slope: Tensor, batch: Batch, models: Models, progress: float
    ) -> Tensor:
        """g of the class, normalised: (batch, C, H, W)."""
        draw, sd = batch.draw, models.student.sigma_data
        x = draw["x_t"]
        cos, sin = cos_sin(draw["sigma"], sd, x)
        r = min(1.0, progress / self.warmup) if self.warmup else 1.0
        g = cos**2 * (draw["velocity"] + sd * F) - r * (cos * sin * x - sd * slope)
        return NORMALISATIONS[self.normalisation](g, self.offset)


def _checked(models: Models) -> float:
    """sigma_data of a student that suits; raises ValueError for others."""
    check_student(models, SCM.student_kind, "SCM")
    student = models.student
    precond = student.precond
    if not isinstance(precond.inner, EDM) or not isinstance(precond.outer, Euler):
        raise ValueError(f"SCM needs a student with EDM scalings, got {precond}")
    if isinstance(precond.noise_embedding, DiscreteTime):
        raise ValueError("SCM needs a noise embedding with a derivative; DiscreteTime has none")
    return student.sigma_data
