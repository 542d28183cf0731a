"""The rows of each step's batch that belong to this process."""

from __future__ import annotations

import torch

from ..data import ImageDataset, batch_indices
from ..losses.objective import Batch, Objective
from ..rng import stream
from .config import TrainConfig
from .distributed import World


class Feed:
    """Images, labels and random numbers as functions of (seed, step): no state to save.

    Every process draws the numbers of the whole global batch and keeps its rows, so they do not
    depend on the number of processes. They are drawn on the CPU and do not depend on the device.

    Args:
        objective: says which random numbers a step needs.
        data: where images and labels come from.
        config: batch_size and seed.
        world: this process among all; batch_size must divide among them.
        device: where batches go.
        labelled: whether the student takes labels.
    """

    def __init__(
        self,
        objective: Objective,
        data: ImageDataset,
        config: TrainConfig,
        world: World,
        device: torch.device,
        labelled: bool,
    ) -> None:
        if config.batch_size % world.size:
            raise ValueError(
                f"batch_size={config.batch_size} does not divide among {world.size} processes"
            )
        self.objective = objective
        self.data = data
        self.batch_size = config.batch_size
        self.seed = config.seed
        self.device = device
        self.labelled = labelled
        share = config.batch_size // world.size
        self.rows = (world.rank * share, (world.rank + 1) * share)

    def __call__(self, step: int, progress: float) -> Batch:
        """This process's rows of step `step`, at training position `progress`, on the device."""
        indices = batch_indices(step, self.batch_size, len(self.data), self.seed)
        draw = self.objective.draw(
            self.batch_size, self.data.shape, stream(self.seed, step), progress
        )
        rows = Batch(indices, None, draw).slice(*self.rows)
        labels = self.data.labels(rows.images) if self.labelled else None
        return Batch(self.data.images(rows.images), labels, rows.draw).to(self.device)
