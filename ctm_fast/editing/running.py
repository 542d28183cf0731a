"""Batches of edited images: the sampler's own methods, with a model and a first state of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from ..sampler import SAMPLERS, Sampler
from ..sampler.arguments import Request, request
from ..sampler.engine import device_of, evaluating
from ..sampler.jumps import Callback
from ..sampler.langevin import method_options
from ..sampler.seeding import SeededNoise

Labels = Tensor | Iterable[int] | int | None


class Make(Protocol):
    """How the images of a batch are made."""

    def __call__(
        self, model: Any, rows: slice, seeds: Tensor, labels: dict[str, Tensor], /
    ) -> Tensor:
        """Images (rows, C, H, W).

        Args:
            model: the running model, in eval mode.
            rows: which images of the run.
            seeds: (rows,) int64 of these images.
            labels: {"labels": (rows,) int64}, or {} for an unconditional model.
        """
        ...


def ordered(
    sampler: Sampler, num: int, labels: Labels, seed: int | Iterable[int] | None
) -> Request:
    """The arguments of an editor's call, checked as a sampler checks its own.

    Raises:
        ValueError: as `Sampler.__call__`, and for a conditional model without labels: classes in
            turn would be those of other images.
    """
    classes = int(getattr(sampler.model, "label_dim", 0))
    if classes and labels is None:
        raise ValueError(
            f"the model has {classes} classes; say which the images belong to: labels=, one for "
            "all or one per image"
        )
    return request(sampler.model, num, labels, seed)


def in_batches(sampler: Sampler, order: Request, make: Make) -> Tensor:
    """Images (order.num, *order.shape) in `sampler.state_dtype`, not clamped.

    The sampler's frozen copy is run, batch by batch, without CUDA graphs.
    """
    model = sampler.running()
    device = device_of(model, None)
    # Not an inference tensor, so that the images may take part in training.
    images = torch.empty(order.num, *order.shape, dtype=sampler.state_dtype, device=device)
    assert order.seeds is not None
    seeds = order.seeds.to(device)
    labels = None if order.labels is None else order.labels.to(device)
    size = sampler.batch_size or order.num
    with evaluating(model), torch.inference_mode():
        for start in range(0, order.num, size):
            rows = slice(start, min(start + size, order.num))
            told = {} if labels is None else {"labels": labels[rows]}
            images[rows] = make(model, rows, seeds[rows], told)
    return images


def sampled(
    sampler: Sampler,
    model: Any,
    x: Tensor,
    levels: tuple[float, ...],
    labels: dict[str, Tensor],
    callback: Callback | None,
    noise: SeededNoise,
) -> Tensor:
    """Images at levels[-1], shape and dtype of x, by the sampler's method with its options.

    Args:
        sampler: says how.
        model: is called instead of the sampler's own.
        x: (batch, C, H, W) state at levels[0].
        levels: (steps + 1,) decreasing.
        labels: passed on to the model.
        callback: as of `Sampler.__call__`.
        noise: of the steps, and of Langevin corrections between them.
    """
    method = str(sampler.method)
    if sampler.freeze:
        x = x.contiguous(memory_format=torch.channels_last)  # as the network answers
    options = method_options(sampler, model, levels, noise, labels)
    method_of: Callable[..., Tensor] = SAMPLERS[method]
    disable = not sampler.progress
    return method_of(model, x, levels, labels, callback, disable, noise_sampler=noise, **options)
