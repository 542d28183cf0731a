"""Easy consistency tuning (ECT). Geng et al. 2024, arXiv:2406.14548.

The five choices: t log-normal and r by a mapping that begins at 0 and approaches t in stages; the
pair shares its noise; the student as it is makes the target; the norm of the whole image; weight
1/(t - r). Where r is 0 the target is the image, so training begins as diffusion training: begin
with a diffusion model's weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..densities import AnyDensity, LogNormal
from ..gaps import AnyGap, SigmoidGap
from ..registry import choice
from .consistency import Consistency
from .distances import AnyDistance, Norm
from .objective import Models
from .weightings import weighting


def published_levels() -> LogNormal:
    """Noise levels of the published CIFAR-10 run, not truncated."""
    return LogNormal(P_mean=-1.1, P_std=2.0)


@dataclass(frozen=True)
class ECT(Consistency):
    """Consistency tuning with a gap that shrinks in stages.

    Defaults are those of the published CIFAR-10 run. ImageNet-64 has instead

        ECT(density=LogNormal(-0.8, 1.6), gap=SigmoidGap(q=4, stages=4), distance=Norm(c=0.06),
            weighting="karras")

    which weighs by 1/t^2 + 1/sigma_data^2, and the run of one hour `gap=SigmoidGap(q=256,
    stages=1)`.

    The student is a `Denoiser` with EDM's scalings and kind="consistency": f(x, 0) = x. The
    published CIFAR-10 code trains so, but evaluates the same weights with t - 0.003 in c_skip and
    in the numerator of c_out, which moves the boundary to 0.003 and helps the second of two steps
    (at 0.821 it changes c_out by 0.4 %, at 80 by 0.002 %). To sample or save like that:

        precond = replace(student.precond, inner=Ect(student.sigma_data, shift=0.003))
        Denoiser(student.net, precond, kind="consistency")

    with `dataclasses.replace` and `ctm_fast.precond.Ect`. The ImageNet-64 code does not shift.

    A network that normalises its weights in place (EDM2 in training mode) must not do that in the
    pass of the target, as the published ImageNet-64 code says; the networks of this library do not
    normalise weights.

    Source: Geng et al. 2024, Sections 3.2 and 3.3, and its published code.
    """

    # Of the two images: Norm(c=0) CIFAR-10, Norm(c=0.06) ImageNet-64.
    distance: AnyDistance = choice("ctm_fast.losses.distances:DISTANCES", Norm)
    density: AnyDensity = choice("ctm_fast.densities:DENSITIES", published_levels)  # of t
    gap: AnyGap = choice("ctm_fast.gaps:GAPS", SigmoidGap)  # r(t, stage)
    weighting: str = "inverse_step"  # 1/(t - r); karras: 1/t^2 + 1/sigma_data^2

    def __post_init__(self) -> None:
        weighting(self.weighting)

    def levels(
        self, batch_size: int, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, Tensor]:
        """Noise levels t and r, (batch_size,) float64 each, on the generator's device."""
        t = self.density.sample(batch_size, generator, torch.float64)
        return t, self.gap.r(t, self.gap.stage(progress))

    def weight(self, t: Tensor, r: Tensor, models: Models) -> Tensor:
        """Weight of each image, shape and dtype of `t`."""
        return weighting(self.weighting)(t, r, models.student.sigma_data)
