"""Guidance by a worse model: autoguidance, self-guidance, classifier-free guidance.

Ho & Salimans 2022 (arXiv:2207.12598); Karras et al. 2024 (autoguidance, arXiv:2406.02507); Wang
et al. 2024 (SCT, arXiv:2410.18958), which guides a consistency model by an earlier state of itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .group import Group, calls_of, labels_for, level_of, same_end


class Guided(Group):
    """f_bad + weight (f_good - f_bad), for denoisers, consistency and trajectory models alike.

    The bad model is a worse one (an average from earlier in the same training, a smaller or less
    trained network), or by default the good one without labels, which is classifier-free
    guidance and needs a model that was trained with labels left out.

    Args:
        good: a `Denoiser`, or anything with its methods and attributes.
        bad: another one of the same kind; None for the good one without labels.
        weight: 1 is the good model alone, which is then the only one called; larger ones move
            away from the bad one.
        batched: without `bad`, one call of twice the batch instead of two calls.
        null_label: the class that means "no label"; None for weights of zero on all classes,
            which is what our networks are trained with.

    Raises:
        ValueError: for models that do not fit together, a weight that is not finite, an
            unconditional model without `bad`, one that takes integer labels without `bad` and null
            label, or a null label beside `bad`.

    Source: SCT, Section 4.4; autoguidance, Eq. 3.
    """

    def __init__(
        self,
        good: Any,
        bad: Any = None,
        *,
        weight: float = 2.0,
        batched: bool = True,
        null_label: int | None = None,
    ) -> None:
        members = (good,) if bad is None else (good, bad)
        super().__init__(members)
        if not math.isfinite(weight):
            raise ValueError(f"the guidance weight is {weight}; it must be finite")
        if bad is None and int(good.label_dim) == 0:
            raise ValueError("an unconditional model has no labels to leave out; give bad=")
        weights = getattr(getattr(good, "net", None), "one_hot", True)
        if bad is None and null_label is None and not weights and weight != 1:
            raise ValueError(
                "the callable takes integer labels: say which one stands for none, "
                "Guided(wrap(...), null_label=...)"
            )
        if bad is not None and null_label is not None:
            raise ValueError(f"null_label={null_label} with bad=: nothing is left out then")
        same_end(members)
        self.sigma_min = max(float(member.sigma_min) for member in members)
        self.sigma_max = min(float(member.sigma_max) for member in members)
        if self.sigma_min >= self.sigma_max:
            raise ValueError("the good and the bad model have no noise level in common")
        self.weight, self.batched, self.null_label = float(weight), bool(batched), null_label
        calls = calls_of(good) + calls_of(members[-1])
        self.network_calls = calls_of(good) if weight == 1 else calls

    def of(self, members: Sequence[Any]) -> Guided:
        """The same guidance between other models."""
        options = {"batched": self.batched, "null_label": self.null_label}
        return Guided(*members, weight=self.weight, **options)  # type: ignore[arg-type]

    @property
    def settings(self) -> tuple[Any, ...]:
        """Weight, and how labels are left out."""
        return self.weight, self.batched, self.null_label

    @property
    def label_dim(self) -> int:
        """Number of classes of the good model."""
        return int(self.members[0].label_dim)

    def forward(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Guided image, (batch, C, H, W); arguments as of `Denoiser.forward`.

        Raises:
            ValueError: without labels, where guidance is by leaving them out.
        """
        return self._guided(
            lambda model, x, levels, labels: model(x, *levels, labels), x, (sigma,), labels
        )

    def jump(
        self,
        x: Tensor,
        sigma: Tensor | float,
        sigma_to: Tensor | float,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Guided point at `sigma_to`, (batch, C, H, W); arguments as of `Denoiser.jump`.

        Raises:
            ValueError: as `forward`, and as `Denoiser.jump`.
        """
        return self._guided(
            lambda model, x, levels, labels: model.jump(x, *levels, labels),
            x,
            (sigma, sigma_to),
            labels,
        )

    def _guided(
        self,
        called: Callable[..., Tensor],
        x: Tensor,
        levels: tuple[Tensor | float, ...],
        labels: Tensor | None,
    ) -> Tensor:
        def call(model: Any, x: Tensor, levels: tuple[Any, ...], labels: Tensor | None) -> Tensor:
            return called(model, x, tuple(level_of(model, level, x) for level in levels), labels)

        good, bad = self.members[0], self.members[-1]
        if self.weight == 1:
            return call(good, x, levels, labels)
        if len(self.members) == 2:
            own = call(good, x, levels, labels)
            return call(bad, x, levels, labels_for(bad, labels)).lerp(own, self.weight)
        if labels is None:
            raise ValueError("classifier-free guidance needs labels, which it compares with none")
        if not self.batched:
            none = None if self.null_label is None else self._without(labels, good.label_dim)[1]
            return call(good, x, levels, none).lerp(call(good, x, levels, labels), self.weight)
        both = torch.cat(self._without(labels, good.label_dim))
        twice = tuple(
            torch.cat([level, level]) if isinstance(level, Tensor) and level.numel() > 1 else level
            for level in levels
        )
        own, other = call(good, torch.cat([x, x]), twice, both).chunk(2)
        return other.lerp(own, self.weight)

    def _without(self, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Labels, and what stands for none, in one form."""
        if self.null_label is not None:
            return labels, torch.full_like(labels, self.null_label)
        if not labels.is_floating_point():
            labels = functional.one_hot(labels, classes).float()
        return labels, torch.zeros_like(labels)

    def extra_repr(self) -> str:
        """Weight and kind."""
        how = "" if len(self.members) == 2 else ", by leaving out labels"
        return f"weight={self.weight:g}, kind={self.kind}{how}"
