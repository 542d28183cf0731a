"""Times of CTM's generator step: teacher solve, losses, gradients, optimizer and averages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ctm_fast.losses import CTM, L2, Batch, PseudoHuber
from ctm_fast.models import UNet
from ctm_fast.models.surgery import student_net
from ctm_fast.rng import stream
from ctm_fast.timesteps import TrajectoryLevels

from . import networks
from .arms import Arm, selected
from .bench_solve import grid_of
from .contest import Case, contest
from .flops import flops
from .outcome import Outcome
from .peer_step import step_arms
from .peers import recognise
from .step_arms import Task, arms_of, exact

DISTANCES = {"l2": L2, "pseudo_huber": PseudoHuber}


@dataclass(frozen=True)
class Settings:
    """What `measure` measures."""

    networks: tuple[str, ...] = ("ddpmpp-cifar10",)  # of the teachers
    batches: tuple[int, ...] = (4,)  # images per optimizer step
    steps: tuple[int, ...] = (17,)  # Heun steps n of every image
    microbatch: int = 11  # of the official arrangement
    own_microbatch: int | None = None  # of all other arms; None: the whole batch at once
    distance: str = "pseudo_huber"  # or l2
    dtype: torch.dtype = torch.bfloat16
    device: str = "cpu"
    rounds: int = 3
    arms: tuple[str, ...] = ()
    compiled: bool = True
    peers: tuple[Path, ...] = ()


def measure(settings: Settings) -> Iterator[list[Outcome]]:
    """Outcomes of one network, batch and number of steps after another.

    Raises:
        ValueError: for an unknown network or distance, or a peer that is not recognised.
    """
    if settings.distance not in DISTANCES:
        raise ValueError(f"unknown distance {settings.distance!r}; choose from {sorted(DISTANCES)}")
    clones = [recognise(path) for path in settings.peers]
    for name in settings.networks:
        teacher = networks.network(name)
        for batch in settings.batches:
            for steps in settings.steps:
                task = prepared(settings, teacher, batch, steps)
                case = Case(
                    *("step", name, batch, settings.dtype, settings.device),
                    options={
                        "steps": steps,
                        "microbatch": settings.microbatch,
                        "own_microbatch": settings.own_microbatch,
                        "distance": settings.distance,
                    },
                    flops=work(task, batch, steps),
                    loose=5.0,
                )
                arms: list[Arm] = [*arms_of(case, task), *step_arms(clones, case, task)]
                arms = selected(arms, settings.arms, settings.compiled)
                yield contest(case, arms, exact(case, task), settings.rounds)


def prepared(settings: Settings, teacher: UNet, batch: int, steps: int) -> Task:
    """Networks, objective and random numbers that all arms share.

    Raises:
        ValueError: for more steps than the grid has.
    """
    sigmas = grid_of(teacher)
    objective = CTM(
        num_scales=len(sigmas),
        levels=TrajectoryLevels(max_steps=steps, step_count="fixed"),
        distance=DISTANCES[settings.distance](),
    )
    student = student_net(teacher, seed=1)
    images = networks.images(teacher, batch)
    draw = objective.draw(batch, tuple(images.shape[1:]), stream(0, 0))
    given = Batch(images, networks.classes(teacher, batch), draw).to(settings.device)
    return Task(
        objective=objective,
        teacher=teacher,
        student=student.eval(),
        sigmas=sigmas.to(settings.device),
        batch=given,
        microbatch=settings.microbatch,
        own_microbatch=settings.own_microbatch,
        distance=settings.distance,
    )


def work(task: Task, batch: int, steps: int) -> float:
    """Floating-point operations that a step cannot do without.

    2 n forwards of the teacher; two of the student with their backwards and one without; two of
    the target, one of them with a backward to its image, which costs about a forward.
    """
    teacher, student = flops(task.teacher, batch), flops(task.student, batch)
    trained = flops(task.student, batch, backward=True)
    return 2 * steps * teacher + 2 * trained + 4 * student
