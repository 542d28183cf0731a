"""Training one method with a budget of network evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ctm_fast.denoiser import Denoiser
from ctm_fast.inference import freeze
from ctm_fast.presets import preset_named
from ctm_fast.trainer import TrainConfig, Trainer

from .counting import counted
from .methods import Method, Stage
from .worlds import World

TRIED = 12  # steps from which the cost of a step is measured


@dataclass(frozen=True)
class Trained:
    """A model and what it took.

    Attributes:
        model: the average of the weights.
        steps: optimizer steps of all stages.
        evaluations: network evaluations of all stages per image of a batch, counted.
        seconds: of training.
    """

    model: Denoiser
    steps: int
    evaluations: float
    seconds: float


def trained_teacher(world: World, seed: int) -> Denoiser:
    """EDM teacher of a world."""
    preset = preset_named("dsm-digits")
    config = schedule(preset.train(), world.teacher_steps, seed, world.batch_size)
    return _fit(preset.objective(), world.teacher_net(seed), None, world, config).model


def trained(method: Method, world: World, teacher: Denoiser, seed: int, budget: float) -> Trained:
    """A method's model after about `budget` network evaluations per image of a batch.

    Every student begins with the teacher's weights. A method whose steps cost more makes fewer.
    """
    model, steps, evaluations, seconds = teacher, 0, 0.0, 0.0
    for number, stage in enumerate(method.stages(world.name)):
        count = max(1, round(budget * stage.share / cost(stage, world, teacher, seed)))
        config = schedule(stage.train, count, seed, world.batch_size)
        student, helper = _models(stage, world, teacher, model if number else None, seed)
        done = _fit(stage.objective_for(count), student, helper, world, config)
        model, steps = done.model, steps + count
        evaluations, seconds = evaluations + done.evaluations, seconds + done.seconds
    return Trained(model, steps, evaluations, seconds)


def cost(stage: Stage, world: World, teacher: Denoiser, seed: int) -> float:
    """Network evaluations per image of a batch in one optimizer step, counted over a few steps."""
    student, helper = _models(stage, world, teacher, None, seed)
    config = schedule(stage.train, TRIED, seed + 1, world.batch_size)
    objective = stage.objective_for(TRIED)
    return _fit(objective, student, helper, world, config).evaluations / TRIED


def _models(
    stage: Stage, world: World, teacher: Denoiser, first: Denoiser | None, seed: int
) -> tuple[Denoiser, Denoiser | None]:
    """The student, and the model that the objective calls its teacher."""
    objective = stage.objective
    if getattr(objective, "teacher_kind", None) == "consistency":
        # The second stage of TCM: begins with the first one's weights, and refers to it.
        if first is None:
            first = world.student(objective, teacher, seed)
        return world.student(objective, first, seed), first
    student = world.student(objective, teacher, seed)
    return student, teacher if "teacher" in objective.needs else None


def _fit(
    objective: Any, student: Denoiser, teacher: Any, world: World, config: TrainConfig
) -> Trained:
    if teacher is not None and teacher.kind == "denoiser" and world.name != "mixture":
        teacher = freeze(teacher, None)
    trainer = Trainer(objective, student, teacher=teacher, data=world.dataset, config=config)
    with counted() as evaluations:
        summary = trainer.fit()
    per_image = evaluations.number / config.batch_size
    return Trained(trainer.ema.eval(), summary.steps, per_image, summary.seconds)


def schedule(config: TrainConfig, steps: int, seed: int, batch_size: int) -> TrainConfig:
    """Training options for that many steps: warm-up, then a learning rate that falls to 0."""
    return config.replace(
        steps=steps,
        batch_size=batch_size,
        lr_warmup=min(50, steps // 10),
        lr_cooldown=steps * 3 // 4,
        seed=seed,
        checkpoint_every=0,
        log_every=max(1, steps // 20),
        progress_bar=False,
    )
