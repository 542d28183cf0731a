"""Adam and RAdam whose step also moves the averages of the weights, in one pass over memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..kernels.optimizer_step import Rule, Weights, optimizer_step


class Fused(torch.optim.Optimizer):
    """What `FusedAdam` and `FusedRAdam` share; their state is that of torch's optimizers.

    One group of parameters on one device, no weight decay. On a GPU the number of steps is kept on
    the device, as torch does for `capturable=True`.

    Args:
        params: weights, float32 (float64 for tests of exactness).
        lr: learning rate.
        betas: averaging factors of the moments, in [0, 1).
        eps: offset of the denominator.
        averages: lists of tensors that follow the weights, one tensor per weight each.

    Raises:
        ValueError: for values outside their range, or averages that do not fit.
    """

    rectified = False
    _weights: Weights | None = None

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        averages: Sequence[Sequence[Tensor]] = (),
    ) -> None:
        weights = list(params)
        options: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps}
        options["capturable"] = bool(weights) and weights[0].is_cuda
        super().__init__(weights, **options)
        self.averages = [list(average) for average in averages]
        if any(len(average) != len(weights) for average in self.averages):
            raise ValueError(f"every average needs {len(weights)} tensors, one per weight")

    @torch.no_grad()
    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        decays: Sequence[float] = (),
        norm: Tensor | None = None,
        max_norm: float | None = None,
        loss_scale: float = 1.0,
    ) -> Any:
        """Move weights, moments and averages; returns what `closure` returned.

        Args:
            closure: computes the loss and the gradients first.
            decays: share of the old value that each average keeps, in [0, 1).
            norm: () norm of all gradients without the loss scale. If it is not finite nothing is
                changed; this costs no wait for the GPU.
            max_norm: gradients are clipped to this norm.
            loss_scale: what the gradients are divided by.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        (group,) = self.param_groups
        optimizer_step(
            self._gathered(),
            [p.grad for p in group["params"]],
            Rule(self.rectified, *group["betas"], group["eps"]),
            float(group["lr"]),
            decays,
            norm=norm,
            max_norm=max_norm,
            loss_scale=loss_scale,
        )
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused for a second group: one pass has one learning rate.

        Raises:
            ValueError: there is a group already.
        """
        if self.param_groups:
            raise ValueError(f"{type(self).__name__} takes one group of parameters")
        super().add_param_group(param_group)

    def _gathered(self) -> Weights:
        """All tensors of a step; made once, and again after a state was loaded."""
        if self._weights is None:
            (group,) = self.param_groups
            for option in ("weight_decay", "maximize", "amsgrad", "differentiable"):
                if group.get(option):
                    raise ValueError(f"{type(self).__name__} has no {option}; got {group[option]}")
            params = group["params"]
            for p in params:
                if not self.state[p]:
                    self.state[p]["step"] = torch.zeros((), dtype=torch.float32)
                    for key in ("exp_avg", "exp_avg_sq"):
                        self.state[p][key] = torch.zeros_like(p)
            states = [self.state[p] for p in params]
            steps = torch.stack([s["step"].to(params[0].device, torch.float32) for s in states])
            for state, step in zip(states, steps.unbind()):
                state["step"] = step
            moments = [[s[key] for s in states] for key in ("exp_avg", "exp_avg_sq")]
            self._weights = Weights(params, *moments, steps, self.averages)
        return self._weights

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "averages": self.averages}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._weights = None


class FusedAdam(Fused, torch.optim.Adam):
    """`torch.optim.Adam` and averages of the weights in one pass."""


class FusedRAdam(Fused, torch.optim.RAdam):
    """`torch.optim.RAdam` and averages of the weights in one pass."""

    rectified = True


FUSED: dict[str, Callable[..., Fused]] = {"radam": FusedRAdam, "adam": FusedAdam}
"""By the names of `TrainConfig.optimizer`."""
