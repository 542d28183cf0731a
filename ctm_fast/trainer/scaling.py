"""Applying one update: gradient clipping, and the loss scale that fp16 needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from .config import OPTIMIZERS, TrainConfig


class Update:
    """Optimizer step with clipping and, for fp16, a loss scale.

    The scale starts at 2^16, halves on overflow and doubles after 2000 good steps
    (`torch.amp.GradScaler`). The overflowing update is not applied and the step is not counted:
    the trainer repeats the same step, on the same images and noise, with the smaller scale.

    Args:
        student: whose trainable weights are updated.
        config: optimizer, its options, precision, clip_grad.
    """

    def __init__(self, student: nn.Module, config: TrainConfig) -> None:
        self.parameters = [p for p in student.parameters() if p.requires_grad]
        self.optimizer: torch.optim.Optimizer = OPTIMIZERS[config.optimizer](
            self.parameters, lr=config.lr, betas=config.betas, eps=config.eps
        )
        self.clip = config.clip_grad
        device = self.parameters[0].device
        scaled = config.precision == "fp16"
        self.scaler = torch.amp.GradScaler(device.type) if scaled else None
        if self.scaler is not None:
            # The scaler makes its scale tensor on first use only.
            self.scaler.scale(torch.zeros((), device=device))

    @property
    def scale(self) -> float:
        """Factor of the loss; 1 without loss scaling."""
        return 1.0 if self.scaler is None else self.scaler.get_scale()

    def __call__(self, norm: Tensor, lr: float) -> bool:
        """Apply the gradient in `p.grad`; returns whether it was finite and applied.

        Args:
            norm: gradient norm, without the loss scale.
            lr: learning rate.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.clip is not None:
            clip_grads_with_norm_(self.parameters, self.clip, norm)
        if self.scaler is None:
            self.optimizer.step()
            return True
        before = self.scale
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.scale >= before

    def to_json(self) -> dict[str, Any] | None:
        """State of the loss scale, or None without one."""
        return None if self.scaler is None else self.scaler.state_dict()

    def restore(self, data: dict[str, Any] | None) -> None:
        """Continue a scale written by `to_json`."""
        if self.scaler is not None and data is not None:
            self.scaler.load_state_dict(data)
