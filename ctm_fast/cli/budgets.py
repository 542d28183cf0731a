"""What the demo's budgets train, and for how long."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ..densities import HalfLogNormal
from ..losses import CTM, CTMGAN, GAN, PseudoHuber
from ..models import TeacherEncoder
from ..timesteps import TrajectoryLevels
from ..trainer import TrainConfig

# Noise levels of both models. Digits have 17 grey levels, 0.125 apart, so 0.01 is invisible; 20 is
# 27 times their standard deviation. The published 0.002 .. 80 would spend steps on both ends.
SIGMA_RANGE = (0.01, 20.0)
BudgetName = Literal["small", "medium", "large"]


@dataclass(frozen=True)
class Budget:
    """Network, objective and the options of both training runs."""

    teacher: TrainConfig
    student: TrainConfig
    objective: CTM
    net: str = "digits"  # preset
    net_options: dict[str, Any] = field(default_factory=dict)  # differences from the preset

    @property
    def gan_objective(self) -> CTMGAN:
        """The objective with the adversarial term, which begins half way.

        Narrow heads: 1,797 images of 64 pixels are soon known by heart.
        """
        backbone = TeacherEncoder(sigma=SIGMA_RANGE[0], width=8)
        shared = {f.name: getattr(self.objective, f.name) for f in fields(self.objective)}
        return CTMGAN(**shared, gan=GAN(backbones=(backbone,), start=self.student.steps // 2))

    @property
    def gan_student(self) -> TrainConfig:
        """As many steps of the student as without the term, and those of the discriminator."""
        steps, start = self.student.steps, self.gan_objective.gan.start
        total = start + self.gan_objective.gan.period * (steps - start)
        return self.student.replace(steps=total, lr_cooldown=total * 3 // 4)


def _teacher(steps: int) -> TrainConfig:
    return TrainConfig(
        steps=steps,
        batch_size=256,
        optimizer="adam",
        lr=2e-3,
        lr_warmup=50,
        lr_cooldown=steps * 3 // 4,
        # A fixed decay would remember the first steps in a run as short as this.
        ema=(),
        ema_halflife_kimg=(20.0,),
        ema_rampup=0.1,
        checkpoint_every=200,
        log_every=10,
    )


def _student(steps: int) -> TrainConfig:
    return TrainConfig(
        steps=steps,
        batch_size=128,
        optimizer="adam",
        lr=2e-3,
        lr_warmup=50,
        lr_cooldown=steps * 3 // 4,
        ema=(),
        ema_halflife_kimg=(10.0,),
        ema_rampup=0.1,
        target_ema=0.95,
        checkpoint_every=100,
        log_every=5,
        preview_every=100,
    )


_OBJECTIVE = CTM(
    num_scales=10,
    levels=TrajectoryLevels(max_steps=5, per_sample=True),
    distance=PseudoHuber(factor=0.03),
    density=HalfLogNormal(sigma_min=SIGMA_RANGE[0], sigma_max=SIGMA_RANGE[1]),
)

BUDGETS: dict[str, Budget] = {
    "small": Budget(_teacher(600), _student(400), _OBJECTIVE),
    "medium": Budget(_teacher(1000), _student(1200), _OBJECTIVE),
    "large": Budget(_teacher(4000), _student(10_000), _OBJECTIVE),
}
