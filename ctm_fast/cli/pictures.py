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

PREVIEW_NFES = (1, 2, 4)  # network calls per image of previews of a model that jumps


def class_rows(num_classes: int, per_class: int) -> Tensor | None:
    """Labels of a grid with a row per class, (num_classes * per_class,); None without classes."""
    if num_classes == 0:
        return None
    return torch.arange(num_classes).repeat_interleave(per_class)


def preview(folder: Path, dataset: ImageDataset) -> Callable[[Trainer, int], None]:
    """Trainer callback that writes grids of samples of the average, always from one seed.

    A model that jumps has `step-NNNNNN-nfe1.png`, `-nfe2.png` and `-nfe4.png` per step, by the
    network calls per image; a denoiser has one, `step-NNNNNN.png`, by its own ODE sampler. With
    `TrainConfig.tensorboard` they are in TensorBoard, too: preview/nfe1 and so on, or preview.
    """

    def write(trainer: Trainer, step: int) -> None:
        model: Denoiser = trainer.ema
        labels = class_rows(min(dataset.num_classes, 10), 8) if model.label_dim else None
        for nfe in (None,) if model.kind == "denoiser" else PREVIEW_NFES:
            sampler = Sampler(model, steps=nfe, graphs=False)  # not worth a capture for one call
            images = sampler(64 if labels is None else None, labels=labels, seed=0)
            ending, tag = ("", "preview") if nfe is None else (f"-nfe{nfe}", f"preview/nfe{nfe}")
            path = grid_png(images, folder / f"step-{step:06d}{ending}.png", ncol=8)
            if trainer.board is not None:
                trainer.board.picture(tag, path, step)

    return write
