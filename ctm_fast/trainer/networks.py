"""The networks of a run: what is trained, what follows it, and what stays frozen."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..denoiser import Denoiser
from ..losses.objective import Models, Objective
from . import distributed
from .companion import SharedBuffers, companion_of, frozen
from .config import PRECISIONS, TrainConfig
from .distributed import World
from .ema import EMA, Rate, averages
from .target import Target, target_decay

EVERYTHING = frozenset({"student", "companion"})


class Networks:
    """Student, averages, target, companion and the frozen networks, on the device.

    Args:
        objective: says which of them it needs.
        student: network to train, in place.
        teacher: pretrained network, or None.
        weak: worse network that guides by its errors, or None.
        config: gives the precision and the averages.
        world: this process among all; every process gets the first one's weights.
        device: where they go.
    """

    def __init__(
        self,
        objective: Objective,
        student: Denoiser,
        teacher: Any,
        weak: Any,
        config: TrainConfig,
        world: World,
        device: torch.device,
    ) -> None:
        self.objective = objective
        self.student = student.to(device).train()
        distributed.same_weights(world, self.student)
        self.student.dtype = PRECISIONS[config.precision]
        self.teacher, self.weak = (frozen(model, device) for model in (teacher, weak))
        before = Models(self.student, teacher=self.teacher, weak=self.weak)
        self.companion = companion_of(objective, before, world, device)
        self._buffers = SharedBuffers(world, self.companion)
        self.averages: list[EMA] = averages(self.student, config)
        wanted = "target" in objective.needs
        self.target = Target(self.student, Rate(config.target_ema)) if wanted else None

    @property
    def models(self) -> Models:
        """What the objective sees."""
        target = None if self.target is None else self.target.network
        return Models(self.student, target, self.teacher, self.companion, self.weak)

    @property
    def followers(self) -> list[EMA]:
        """All averages of the student; the last one is the target if there is one."""
        return [*self.averages, *([self.target] if self.target else [])]

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint holds, by its name there."""
        modules: dict[str, nn.Module] = {"student": self.student}
        if self.companion is not None:
            modules["companion"] = self.companion
        if self.target is not None:
            modules["target"] = self.target.model
        return modules | {f"ema/{i}": a.model for i, a in enumerate(self.averages)}

    def trained(self, step: int) -> frozenset[str]:
        """Which of "student" and "companion" the update after `step` finished steps moves.

        Raises:
            ValueError: if the objective names something else, or nothing.
        """
        ask = getattr(self.objective, "trains", None)
        moves = EVERYTHING if ask is None else frozenset(ask(step))
        if not moves or not moves <= EVERYTHING:
            raise ValueError(
                f"trains({step}) of {type(self.objective).__name__} is {sorted(moves)}; "
                f"choose from {sorted(EVERYTHING)}"
            )
        return moves

    def decays(self, images_seen: int, batch_size: int, progress: float) -> list[float]:
        """Share of the old value that each follower keeps in this step."""
        decays = [a.decay(images_seen, batch_size) for a in self.followers]
        asked_for = target_decay(self.objective, progress)
        if self.target is not None and asked_for is not None:
            decays[-1] = asked_for
        return decays

    def moved(self, moves: frozenset[str]) -> None:
        """What is to do after an update that was applied."""
        if self.target is not None and "student" in moves:
            self.target.refresh()
        if "companion" in moves:
            self._buffers.average()
