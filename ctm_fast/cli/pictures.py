"""Sample grids written while training, and the labels that go with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..data import ImageDataset
from ..denoiser import Denoiser
from ..evaluation import grid_png
from ..sampler import Sampler
from ..trainer import Trainer

PREVIEW_STEPS = 2  # network calls per image of a preview of a model that jumps


def class_rows(num_classes: int, per_class: int) -> Tensor | None:
    """Labels of a grid with a row per class, (num_classes * per_class,); None without classes."""
    if num_classes == 0:
        return None
    return torch.arange(num_classes).repeat_interleave(per_class)


def preview(folder: Path, dataset: ImageDataset) -> Callable[[Trainer, int], None]:
    """Trainer callback that writes `step-NNNNNN.png`: images of the average, always one seed."""

    def write(trainer: Trainer, step: int) -> None:
        model: Denoiser = trainer.ema
        labels = class_rows(min(dataset.num_classes, 10), 8) if model.label_dim else None
        steps = PREVIEW_STEPS if model.kind != "denoiser" else None
        sampler = Sampler(model, steps=steps, graphs=False)  # not worth a capture for one call
        images = sampler(64 if labels is None else None, labels=labels, seed=0)
        grid_png(images, folder / f"step-{step:06d}.png", ncol=8)

    return write
