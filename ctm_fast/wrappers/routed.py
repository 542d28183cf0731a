"""One network per range of noise levels: experts, and TCM's two stages.

Lee et al. 2024 (TCM, arXiv:2410.14895): the truncated model above the dividing level t', the
model of the first stage below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..denoiser import per_sample
from ..sigmas import SigmaRange, partition
from .group import Group, calls_of, labels_for, level_of, ode_range_of, same_end


class Routed(Group):
    """The model of the range in which the noise level lies answers.

    With a number as level one network is called. With one level per image every network gets its
    images on a CPU; elsewhere, where looking at the levels would wait for the device, all networks
    get all images.

    Args:
        models: as many as ranges, lowest noise first; all of one kind. The same one may come
            twice.
        boundaries: levels between the ranges, increasing, one less than models; a level on a
            boundary belongs to the range above.

    Raises:
        ValueError: for models that do not fit together, or boundaries that are not increasing or
            not inside the models' ranges.

    Source: TCM, Section 4; Balaji et al. 2022 (eDiff-I, arXiv:2211.01324) for experts.
    """

    def __init__(self, models: Sequence[Any], boundaries: Sequence[float]) -> None:
        super().__init__(models)
        cuts = tuple(float(boundary) for boundary in boundaries)
        if len(cuts) != len(models) - 1:
            raise ValueError(f"{len(models)} models need {len(models) - 1} boundaries, got {cuts}")
        same_end(models)
        self.sigma_min, self.sigma_max = float(models[0].sigma_min), float(models[-1].sigma_max)
        edges = [self.sigma_min, *cuts, self.sigma_max]
        if any(not low < high for low, high in pairwise(edges)):
            raise ValueError(f"boundaries and the ends of the range must increase, got {edges}")
        self.boundaries = cuts
        self.network_calls = max(calls_of(model) for model in models)
        self.ranges: list[SigmaRange] = partition(edges)
        for model, part in zip(models, self.ranges, strict=True):
            low, high = float(model.sigma_min), float(model.sigma_max)
            if not low <= part.low * (1 + 1e-5) or not part.high <= high * (1 + 1e-5):
                raise ValueError(f"a model of [{low}, {high}] cannot answer in {part}")

    def of(self, members: Sequence[Any]) -> Routed:
        """The same ranges with other models."""
        return Routed(members, self.boundaries)

    @property
    def ode_range(self) -> tuple[float, float]:
        """From the lowest level of the first member to the highest of the last one."""
        return ode_range_of(self.members[0])[0], ode_range_of(self.members[-1])[1]

    @property
    def settings(self) -> tuple[Any, ...]:
        """Where the ranges meet."""
        return (self.boundaries,)

    def forward(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """E[image | x], (batch, C, H, W); arguments as of `Denoiser.forward`."""

        def call(model: Any, x: Tensor, sigma: Any, _: Any, labels: Any) -> Tensor:
            return model(x, level_of(model, sigma, x), labels)

        return self._routed(call, x, sigma, None, labels)

    def jump(
        self,
        x: Tensor,
        sigma: Tensor | float,
        sigma_to: Tensor | float,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Point at `sigma_to` by the model in whose range `sigma` is; see `Denoiser.jump`."""

        def call(model: Any, x: Tensor, sigma: Any, sigma_to: Any, labels: Any) -> Tensor:
            levels = level_of(model, sigma, x), level_of(model, sigma_to, x)
            return model.jump(x, *levels, labels)

        return self._routed(call, x, sigma, sigma_to, labels)

    def model_at(self, sigma: float) -> Any:
        """The model that answers at this level; of the lowest or highest range for one outside."""
        return self.members[sum(boundary <= sigma for boundary in self.boundaries)]

    def _routed(
        self,
        call: Callable[..., Tensor],
        x: Tensor,
        sigma: Tensor | float,
        sigma_to: Tensor | float | None,
        labels: Tensor | None,
    ) -> Tensor:
        if not isinstance(sigma, Tensor):
            model = self.model_at(sigma)
            return call(model, x, sigma, sigma_to, labels_for(model, labels))
        sigma = per_sample(sigma, x)
        to = None if sigma_to is None else per_sample(sigma_to, x)
        cuts = torch.tensor(self.boundaries, dtype=sigma.dtype).to(sigma.device)
        which = torch.bucketize(sigma, cuts, right=True)
        # Looking at levels elsewhere would wait for the device, or is impossible.
        way = self._own_rows if sigma.device.type == "cpu" else self._all_rows
        return way(call, x, sigma, to, labels, which)

    def _own_rows(
        self,
        call: Callable[..., Tensor],
        x: Tensor,
        sigma: Tensor,
        sigma_to: Tensor | None,
        labels: Tensor | None,
        which: Tensor,
    ) -> Tensor:
        """Every model is called with the images in its range; `which` is (batch,) int64."""
        answer: Tensor | None = None
        for i, model in enumerate(self.members):
            rows = (which == i).nonzero()[:, 0]
            if len(rows) == 0:
                continue
            known = labels_for(model, labels)
            if known is not None and len(known) == len(x):
                known = known[rows]
            to = None if sigma_to is None else sigma_to[rows]
            own = call(model, x[rows], sigma[rows], to, known)
            answer = own.new_zeros(x.shape) if answer is None else answer
            answer = own if len(rows) == len(x) else answer.index_put((rows,), own)
        return x.clone() if answer is None else answer

    def _all_rows(
        self,
        call: Callable[..., Tensor],
        x: Tensor,
        sigma: Tensor,
        sigma_to: Tensor | None,
        labels: Tensor | None,
        which: Tensor,
    ) -> Tensor:
        """Every model is called with all images, and one answer of each is kept."""
        answer = x
        for i, model in enumerate(self.members):
            own = call(model, x, sigma, sigma_to, labels_for(model, labels))
            mine = (which == i).reshape(-1, *[1] * (x.ndim - 1))
            answer = own if i == 0 else torch.where(mine, own, answer)
        return answer

    def extra_repr(self) -> str:
        """Kind and ranges."""
        return f"kind={self.kind}, boundaries={self.boundaries}"
