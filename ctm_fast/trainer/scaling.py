"""Applying one update: optimizer, gradient clipping, averages, and the loss scale of fp16."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .config import TrainConfig
from .ema import EMA
from .optimizer import FUSED, Fused


@dataclass
class LossScale:
    """Factor of the loss that keeps fp16 gradients in range.

    It halves on overflow and doubles after 2000 good steps in a row, like `torch.amp.GradScaler`,
    whose state it can read and writes; as a number on the host it costs a GPU no wait.
    """

    scale: float = 2.0**16
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000
    good_steps: int = 0  # since it last changed

    def update(self, finite: bool) -> None:
        """Take in whether a gradient was finite."""
        if not finite:
            self.scale, self.good_steps = self.scale * self.backoff_factor, 0
            return
        self.good_steps += 1
        if self.good_steps == self.growth_interval:
            self.scale, self.good_steps = self.scale * self.growth_factor, 0

    def to_json(self) -> dict[str, Any]:
        """State, with the names of `torch.amp.GradScaler`."""
        return {
            "scale": self.scale,
            "growth_factor": self.growth_factor,
            "backoff_factor": self.backoff_factor,
            "growth_interval": self.growth_interval,
            "_growth_tracker": self.good_steps,
        }

    def restore(self, data: dict[str, Any]) -> None:
        """Continue a state written by `to_json`."""
        self.scale, self.good_steps = float(data["scale"]), int(data["_growth_tracker"])
        self.growth_factor = float(data["growth_factor"])
        self.backoff_factor = float(data["backoff_factor"])
        self.growth_interval = int(data["growth_interval"])


class Update:
    """Optimizer step with clipping, averages and, for fp16, a loss scale.

    Weights, moments and averages are read and written once, and only fp16 makes the host wait for
    a GPU. With fp16 an overflowing update is not applied and the step is not counted: the trainer
    repeats the same step, on the same images and noise, with the smaller scale.

    Args:
        student: whose trainable weights are updated. The others never move, nor do their averages.
        config: optimizer, its options, precision, clip_grad.
        averages: of the student; they follow every applied update.
        companion: what is trained beside the student, or None. It has an optimizer of its own and
            shares the gradient norm.
        companion_lr: its learning rate in the place of `config.lr`; None for the same.
        companion_betas: its averaging factors in the place of `config.betas`; None for the same.
    """

    def __init__(
        self,
        student: nn.Module,
        config: TrainConfig,
        averages: Sequence[EMA] = (),
        companion: nn.Module | None = None,
        companion_lr: float | None = None,
        companion_betas: tuple[float, float] | None = None,
    ) -> None:
        self.student, self.averages = student, list(averages)
        trained = [p.requires_grad for p in student.parameters()]
        followers = [
            [p for p, moves in zip(average.model.parameters(), trained) if moves]
            for average in self.averages
        ]
        self.parameters = [p for p in student.parameters() if p.requires_grad]
        make, options = FUSED[config.optimizer], {"betas": config.betas, "eps": config.eps}
        self.optimizer = make(self.parameters, lr=config.lr, averages=followers, **options)
        self.optimizers: dict[str, Fused] = {"student": self.optimizer}
        beside = [] if companion is None else [p for p in companion.parameters() if p.requires_grad]
        if beside:
            own = {**options, "betas": companion_betas or config.betas}
            self.optimizers["companion"] = make(beside, lr=config.lr, **own)
        self.companion_factor = 1.0 if companion_lr is None else companion_lr / config.lr
        self.clip = config.clip_grad
        self.scaler = LossScale() if config.precision == "fp16" else None

    @property
    def scale(self) -> float:
        """Factor of the loss; 1 without loss scaling."""
        return 1.0 if self.scaler is None else self.scaler.scale

    def __call__(
        self,
        norm: Tensor,
        lr: float,
        decays: Sequence[float] = (),
        moves: Collection[str] = ("student", "companion"),
    ) -> bool:
        """Apply the gradient in `p.grad`, which is left as it is.

        A gradient that is not finite changes nothing. Only fp16 waits to see whether it was; its
        scale takes in every update, whatever it moves.

        Args:
            norm: gradient norm, without the loss scale, of all that is trained.
            lr: learning rate of the student.
            decays: share of the old value that each average keeps, in [0, 1).
            moves: names of the optimizers that move; the averages follow "student".

        Returns:
            Whether the update was applied; without a loss scale always True.
        """
        for owner, optimizer in self.optimizers.items():
            if owner not in moves:
                continue
            first = owner == "student"
            for group in optimizer.param_groups:
                group["lr"] = lr * (1.0 if first else self.companion_factor)
            optimizer.step(
                decays=decays if first else (),
                norm=norm,
                max_norm=self.clip,
                loss_scale=self.scale,
            )
        if self.scaler is not None:
            finite = bool(torch.isfinite(norm))
            self.scaler.update(finite)
            if not finite:
                return False
        for average in self.averages if "student" in moves else ():
            average.copy_buffers(self.student)
        return True

    def to_json(self) -> dict[str, Any] | None:
        """State of the loss scale, or None without one."""
        return None if self.scaler is None else self.scaler.to_json()

    def restore(self, data: dict[str, Any] | None) -> None:
        """Continue a scale written by `to_json`."""
        if self.scaler is not None and data is not None:
            self.scaler.restore(data)
