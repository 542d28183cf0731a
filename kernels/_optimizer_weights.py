"""What an optimizer step works on: the tensors, the rule, and the numbers of one step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from .arguments import STATE_DTYPES

Tensor = torch.Tensor
PIECE = 2048
"""Elements of one weight that one Triton program works on."""
CLIP_EPS = 1e-6
"""Added to the norm when it is clipped, as `torch.nn.utils.clip_grad_norm_` does."""


@dataclass(frozen=True)
class Rule:
    """Adam or RAdam, as in `torch.optim` without weight decay.

    Source: Kingma and Ba 2015, Algorithm 1; Liu et al. 2020, Algorithm 2.
    """

    rectified: bool = False  # RAdam; otherwise Adam
    beta1: float = 0.9  # share of the old first moment that is kept, in [0, 1)
    beta2: float = 0.999  # share of the old second moment that is kept, in [0, 1)
    eps: float = 1e-8  # offset of the denominator

    def factors(self, steps: Tensor, lr: float) -> Tensor:
        """(3, n) float64 a, b, c: with moments m and v the update is a m / (b sqrt(v) + c).

        Args:
            steps: (n,) number of each weight's steps, this one included.
            lr: learning rate.
        """
        t = steps.double()
        power = self.beta2**t
        move, bias = lr / (1 - self.beta1**t), 1 - power
        eps = torch.full_like(t, self.eps)
        if not self.rectified:
            return torch.stack([move, bias.rsqrt(), eps])
        limit = 2 / (1 - self.beta2) - 1
        length = limit - 2 * t * power / bias
        # Below a length of 5 the second moment is too uncertain to be divided by.
        certain = length > 5
        rect = (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)
        scale = torch.where(certain, move * (rect * bias).sqrt(), move)
        return torch.stack([scale, certain.double(), torch.where(certain, eps, 1.0)])


class Weights:
    """Weights, their moments and their averages: what `optimizer_step` changes.

    Args:
        params: n tensors of one dtype, float32 or float64, on one device.
        exp_avg, exp_avg_sq: first and second moments, one of each per weight.
        steps: (n,) float32 on the device of the weights, number of steps of each.
        averages: any number of lists with one tensor per weight.

    Raises:
        ValueError: lengths, shapes, dtypes or devices do not fit together.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        exp_avg: Sequence[Tensor],
        exp_avg_sq: Sequence[Tensor],
        steps: Tensor,
        averages: Sequence[Sequence[Tensor]] = (),
    ) -> None:
        self.rows = [list(row) for row in (params, exp_avg, exp_avg_sq, *averages)]
        self.params, self.exp_avg, self.exp_avg_sq = self.rows[:3]
        self.averages = self.rows[3:]
        self.steps = steps
        self.uploaded: tuple[Any, Tensor] | None = None  # what the last step sent to the device
        self._addresses: list[int] = []
        self._check()

    def __len__(self) -> int:
        return len(self.params)

    def _check(self) -> None:
        count = len(self.params)
        if not count or any(len(row) != count for row in self.rows):
            lengths = [len(row) for row in self.rows]
            raise ValueError(f"there are {lengths} tensors; need as many of each as weights, >= 1")
        first = self.params[0]
        if first.dtype not in STATE_DTYPES:
            raise ValueError(f"weights are {first.dtype}; they must be float32 or float64")
        for i, weight in enumerate(self.params):
            for row in self.rows:
                self.check_like(f"tensor {i}", row[i], weight.shape)
        if (self.steps.dtype, self.steps.shape) != (torch.float32, (count,)):
            raise ValueError(
                f"steps is {self.steps.dtype} of shape {tuple(self.steps.shape)}; "
                f"it must be torch.float32 of shape ({count},)"
            )
        if self.steps.device != first.device or not self.steps.is_contiguous():
            raise ValueError(f"steps must be contiguous, on {first.device} like the weights")

    def check_like(self, name: str, tensor: Tensor, shape: torch.Size) -> None:
        """Raises ValueError unless a tensor has this shape, and the weights' dtype and device."""
        first = self.params[0]
        if tensor.shape != shape or tensor.dtype != first.dtype or tensor.device != first.device:
            raise ValueError(
                f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}; "
                f"need {first.dtype} of shape {tuple(shape)} on {first.device}"
            )

    def look(self) -> str | None:
        """Looks at the tensors anew; the reason why no compiled backend can run, or None.

        Tables of addresses are kept between steps, and made again when a tensor has moved.
        """
        if self.params[0].dtype != torch.float32:
            return f"the compiled optimizer step is for float32, not {self.params[0].dtype}"
        addresses = [t.data_ptr() for row in self.rows for t in row]
        if addresses != self._addresses:
            for name in ("strides", "table", "sizes", "pieces", "_layouts"):
                self.__dict__.pop(name, None)
            self._addresses = addresses
        return self._layouts

    @cached_property
    def _layouts(self) -> str | None:
        for i, weight in enumerate(self.params):
            if not same_order(torch.empty_like(weight, device="meta"), weight):
                return f"weight {i} does not fill its memory: strides {weight.stride()}"
            if not all(same_order(row[i], weight) for row in self.rows):
                return f"weight {i}, its moments and averages differ in memory layout"
        return None

    @cached_property
    def strides(self) -> list[tuple[int, ...]]:
        """Strides of each weight."""
        return [p.stride() for p in self.params]

    @property
    def aligned(self) -> bool:
        """Whether every tensor begins at a multiple of 16 bytes."""
        return not any(address & 15 for address in self._addresses)

    @cached_property
    def table(self) -> Tensor:
        """(3 + averages, n) int64 addresses: weights, moments, averages."""
        table = torch.tensor(self._addresses, dtype=torch.int64).view(len(self.rows), len(self))
        return table.to(self.steps.device)

    @cached_property
    def sizes(self) -> Tensor:
        """(n,) int64 elements of each weight."""
        counts = [p.numel() for p in self.params]
        return torch.tensor(counts, dtype=torch.int64).to(self.steps.device)

    @cached_property
    def pieces(self) -> Tensor:
        """(2, pieces) int32: for every piece of PIECE elements its weight, and its number there."""
        counts = torch.tensor([-(-p.numel() // PIECE) for p in self.params])
        owner = torch.repeat_interleave(torch.arange(len(self)), counts)
        number = torch.arange(len(owner)) - (counts.cumsum(0) - counts)[owner]
        return torch.stack([owner, number]).int().to(self.steps.device)

    def gradients(self, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The gradients in the memory order of their weights; copies where they are not."""
        return [
            g if g is None or g.stride() == strides or same_order(g, p) else _like(g, p)
            for g, strides, p in zip(grads, self.strides, self.params)
        ]

    def advance(self, grads: Sequence[Tensor | None]) -> None:
        """Counts a step of every weight that has a gradient."""
        if any(g is None for g in grads):
            self.steps.add_(torch.tensor([float(g is not None) for g in grads]).to(self.steps))
        else:
            self.steps.add_(1)


@dataclass(frozen=True)
class Step:
    """The numbers of one step, see `optimizer_step`."""

    lr: float
    decays: tuple[float, ...] = ()
    norm: Tensor | None = None
    max_norm: float | None = None
    loss_scale: float = 1.0

    def gain(self) -> float | None:
        """Factor of the gradients, None if the step is to be left out; waits for the device."""
        if self.norm is None:
            return 1 / self.loss_scale
        norm = float(self.norm)
        if not math.isfinite(norm):
            return None
        clip = 1.0 if self.max_norm is None else min(1.0, self.max_norm / (norm + CLIP_EPS))
        return clip / self.loss_scale


def same_order(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape have their elements in the same places."""
    if one.stride() == other.stride():
        return True
    return one.numel() == 0 or all(
        a == b for a, b, size in zip(one.stride(), other.stride(), one.shape) if size > 1
    )


def _like(values: Tensor, layout: Tensor) -> Tensor:
    """The values in another tensor's memory layout."""
    return torch.empty_like(layout).copy_(values)
