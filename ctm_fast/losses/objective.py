"""What an objective is: draws, no-grad preparation, terms, and the balance between terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from .moves import on_device


@dataclass
class Batch:
    """Images of one optimizer step with every random number that the step uses.

    `draw` maps names to tensors with one row per image, or to numbers shared by all images.
    `host` keeps a copy of its whole numbers on the CPU when the batch moves to a device: code may
    decide by them, where reading them from the device would wait for it.
    """

    images: Tensor  # (batch, C, H, W) in [-1, 1]
    labels: Tensor | None = None  # (batch,) int64
    draw: dict[str, Any] = field(default_factory=dict)
    host: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def known(self, name: str) -> Tensor | None:
        """The tensor of that name as it was drawn on the CPU; None where it is on a device only."""
        value = self.host.get(name, self.draw.get(name))
        return value if isinstance(value, Tensor) and value.device.type == "cpu" else None

    def slice(self, start: int, stop: int) -> Batch:
        """Rows start..stop-1, with the shared numbers as they are."""
        rows = slice(start, stop)
        return Batch(
            self.images[rows],
            None if self.labels is None else self.labels[rows],
            {k: v[rows] if isinstance(v, Tensor) else v for k, v in self.draw.items()},
            {k: v[rows] for k, v in self.host.items()},
        )

    def take(self, parts: Sequence[Batch]) -> None:
        """Take the draws of consecutive slices, all with the same names, in place of its own."""
        first = parts[0].draw
        self.draw = {
            k: torch.cat([part.draw[k] for part in parts]) if isinstance(v, Tensor) else v
            for k, v in first.items()
        }

    def reorder(self, rows: Tensor) -> None:
        """Put the images into the order `rows`, a permutation on the CPU, in place."""
        where = on_device(rows, self.images.device)
        images = self._each(lambda v: v.index_select(0, where), {})
        self.host = {k: v[rows] for k, v in self.host.items()}
        self.images, self.labels, self.draw = images.images, images.labels, images.draw

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device. What is pinned is copied without waiting."""
        draw = {k: v for k, v in self.draw.items() if isinstance(v, Tensor)}
        whole = {k: v for k, v in draw.items() if not v.is_floating_point()}
        own = {k: v for k, v in whole.items() if v.device.type == "cpu"}
        # Towards the CPU one has to wait: what arrives there is read at once.
        wait = torch.device(device).type == "cpu"
        return self._each(lambda v: v.to(device, non_blocking=not wait), {**self.host, **own})

    def pinned(self) -> Batch:
        """The batch in page-locked memory, from where `to` copies while the GPU works."""
        return self._each(Tensor.pin_memory, self.host)

    def _each(self, function: Callable[[Tensor], Tensor], host: dict[str, Tensor]) -> Batch:
        return Batch(
            function(self.images),
            None if self.labels is None else function(self.labels),
            {k: function(v) if isinstance(v, Tensor) else v for k, v in self.draw.items()},
            host,
        )


@dataclass(frozen=True)
class Models:
    """Networks that a term may use; the trainer builds those that the objective needs."""

    student: Denoiser  # trained
    target: Denoiser | None = None  # exponential moving average of the student, frozen
    teacher: Denoiser | None = None  # pretrained diffusion model, frozen
    companion: nn.Module | None = None  # what the objective trains beside the student
    weak: Denoiser | None = None  # a worse model that guides by its errors, frozen


@dataclass(frozen=True)
class Balance:
    """Adaptive weight clamp(|grad_W first term| / (|grad_W this term| + eps), low, high).

    W is `student.last_layer.weight`; both norms are those of the whole global batch. They are
    measured with the fixed factors of the two losses and compared without them: the weight would
    otherwise cancel the factors.
    Source: Kim et al. 2024 (CTM), Section 3.3; the cap, eps and the treatment of the factors are
    from its published code.
    """

    low: float = 0.0  # smallest weight
    high: float = 1e4  # largest weight
    eps: float = 1e-4  # added to the denominator
    reference_factor: float = 1.0  # fixed factor in the first term's loss, > 0
    factor: float = 1.0  # fixed factor in this term's loss, > 0

    def __call__(self, reference_norm: Tensor, norm: Tensor) -> Tensor:
        """Weight from the two gradient norms, a scalar tensor."""
        ratio = (reference_norm / self.reference_factor) / (norm / self.factor + self.eps)
        return ratio.clamp(self.low, self.high)


@runtime_checkable
class Objective(Protocol):
    """A loss made of terms that are evaluated and differentiated one after the other.

    The order of one optimizer step: `draw` (random numbers of the whole global batch), `prepare`
    (work without gradient on this rank's share), then for each term `loss` on each microbatch.
    By then `batch.draw["step"]` is the number of finished steps; `evaluate` leaves it out.
    Results depend neither on the number of ranks nor on the microbatch size.

    An objective may have more, which the trainer looks for:

    - `active(term, batch)`: False where a term takes no part in a step; it is then not evaluated.
    - `whole_batch`: True if `prepare` relates the images of a batch to each other; where memory is
      short it is otherwise called for one part of the batch after the other.
    - `order(batch)`: a permutation on the CPU, or None: images in an order in which less is to do
      where a batch is split.
    - `joint` and `losses(batch, models, progress)`: whether, and how, all terms come from one call
      of the student, by name, without those that take no part; for `one_pass`.
    - `settled(term, batch)`: True where all images of a microbatch spare a part of the term's work;
      it is captured apart.
    - `wants_data` and `attach(images, labels)`: whether it refers to images beyond a batch; it is
      then given all of them before the first step, on the CPU.
    - `diagnostics`: names of what `prepare` leaves in the draw for the log, a number per image;
      each log line has their means over the images of all processes.
    - `capturable`: True if `loss` depends on the batch's tensors alone, not on progress or on whole
      numbers that all images share; for `capture`.
    - `student_kind`: `kind` of the `Denoiser` that is trained; "trajectory" where it is not said.
    - `target_decay(progress)`: decay in [0, 1) of the target network in this step, instead of the
      trainer's `target_ema`; None for the trainer's.
    - `companion(models)`: a module that is trained beside the student but is in no average and not
      part of the model, or None; `loss` finds it in `Models`. No target exists by then.
    - `companion_lr`, `companion_betas`: its learning rate, on the student's schedule, and averaging
      factors of its optimizer; None for the student's.
    - `trains(step)`: which of "student" and "companion" the update after `step` finished steps
      moves; both where it is not said. Averages and target move with the student.
    """

    @property
    def needs(self) -> frozenset[str]:
        """Subset of {"target", "teacher"}."""
        ...

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms; the first one is the reference of adaptive weights."""
        ...

    @property
    def balance(self) -> Mapping[str, Balance]:
        """Terms with an adaptive weight."""
        ...

    def draw(
        self,
        batch_size: int,
        shape: tuple[int, ...],
        generator: torch.Generator,
        progress: float = 0.0,
    ) -> dict[str, Any]:
        """All random numbers of one step; `shape` is (C, H, W), `progress` in [0, 1)."""
        ...

    def prepare(self, batch: Batch, models: Models, progress: float = 0.0) -> None:
        """Work without gradient; results are added to `batch.draw`, one row per image."""
        ...

    def loss(self, term: str, batch: Batch, models: Models, progress: float = 0.0) -> Tensor:
        """Loss of one term per image, (batch,), already multiplied by its fixed weight."""
        ...


class OneTerm:
    """Part of an objective that has one term, `term`: nothing to balance, only a student needed."""

    term: ClassVar[str]

    @property
    def needs(self) -> frozenset[str]:
        """Nothing but the student."""
        return frozenset()

    @property
    def terms(self) -> tuple[str, ...]:
        """The one term."""
        return (self.term,)

    @property
    def balance(self) -> dict[str, Balance]:
        """Nothing to balance."""
        return {}


def evaluate(
    objective: Objective, batch: Batch, models: Models, progress: float = 0.0
) -> dict[str, Tensor]:
    """Every term's per-image loss on one batch whose draws are in place."""
    objective.prepare(batch, models, progress)
    return {term: objective.loss(term, batch, models, progress) for term in objective.terms}
