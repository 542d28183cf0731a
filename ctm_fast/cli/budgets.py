"""What the demo's budgets train, and for how long."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ..losses import CTM, PseudoHuber
from ..timesteps import TrajectoryLevels
from ..trainer import TrainConfig

BudgetName = Literal["small", "medium", "large"]


@dataclass(frozen=True)
class Budget:
    """Network, objective and the options of both training runs."""

    teacher: TrainConfig
    student: TrainConfig
    objective: CTM
    net: str = "digits"  # preset
    net_options: dict[str, Any] = field(default_factory=dict)  # differences from the preset


def _teacher(steps: int) -> TrainConfig:
    return TrainConfig(
        steps=steps,
        batch_size=256,
        optimizer="adam",
        lr=2e-3,
        lr_warmup=50,
        lr_cooldown=steps * 3 // 4,
        ema=(0.995,),
        checkpoint_every=200,
        log_every=10,
    )


def _student(steps: int) -> TrainConfig:
    return TrainConfig(
        steps=steps,
        batch_size=128,
        optimizer="radam",
        lr=1e-3,
        lr_warmup=20,
        lr_cooldown=steps * 3 // 4,
        ema=(0.99,),
        target_ema=0.95,
        checkpoint_every=100,
        log_every=5,
        preview_every=100,
    )


_OBJECTIVE = CTM(
    num_scales=18, levels=TrajectoryLevels(max_steps=6), distance=PseudoHuber(factor=0.03)
)

BUDGETS: dict[str, Budget] = {
    "small": Budget(_teacher(600), _student(400), _OBJECTIVE),
    "medium": Budget(_teacher(1000), _student(1200), _OBJECTIVE),
    "large": Budget(_teacher(4000), _student(10_000), _OBJECTIVE),
}
