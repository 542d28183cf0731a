"""The rows of each step's batch that belong to this process."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch

from ..data import ImageDataset, batch_indices
from ..data.augment import augmented, drawn
from ..losses.objective import Batch, Objective
from ..rng import stream
from .config import TrainConfig
from .distributed import World

AUGMENTATION = 0x617567  # numbers its stream of random numbers among those of a step


class Feed:
    """Images, labels and random numbers as functions of (seed, step): no state to save.

    `batch.draw["step"]` is the number of finished steps.

    Every process draws the numbers of the whole global batch and keeps its rows, so they do not
    depend on the number of processes. They are drawn on the CPU and do not depend on the device.

    `expect` names the next batch, which a thread then makes while the device works on this one;
    leaving the feed as a context ends the thread. No batch depends on it.

    Args:
        objective: says which random numbers a step needs.
        data: where images and labels come from.
        config: batch_size, seed and augment.
        world: this process among all; batch_size must divide among them.
        device: where batches go.
        labelled: whether the student takes labels.
        threaded: whether to make batches ahead; by default unless the device is the CPU, which
            has the same work to do at any time.
    """

    def __init__(
        self,
        objective: Objective,
        data: ImageDataset,
        config: TrainConfig,
        world: World,
        device: torch.device,
        labelled: bool,
        threaded: bool | None = None,
    ) -> None:
        if config.batch_size % world.size:
            raise ValueError(
                f"batch_size={config.batch_size} does not divide among {world.size} processes"
            )
        self.objective = objective
        self.data = data
        self.batch_size = config.batch_size
        self.seed = config.seed
        self.augment = config.augment
        self.device = device
        self.labelled = labelled
        self.threaded = device.type != "cpu" if threaded is None else threaded
        self._thread: ThreadPoolExecutor | None = None
        self._next: tuple[tuple[int, float], Future[Batch]] | None = None
        if getattr(objective, "wants_data", False):
            every = torch.arange(len(data))
            labels = data.labels(every) if labelled else None
            objective.attach(data.images(every), labels)  # type: ignore[attr-defined]
        share = config.batch_size // world.size
        self.rows = (world.rank * share, (world.rank + 1) * share)

    def __call__(self, step: int, progress: float) -> Batch:
        """This process's rows of step `step`, at training position `progress`, on the device."""
        batch = self._expected(step, progress)
        return (self._made(step, progress) if batch is None else batch).to(self.device)

    def expect(self, step: int, progress: float) -> None:
        """Begin to make that batch; another one can be asked for nevertheless."""
        if self.threaded and self._next is None:
            self._thread = self._thread or ThreadPoolExecutor(1, "ctm_fast-feed")
            self._next = (step, progress), self._thread.submit(self._made, step, progress)

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *exception: object) -> None:
        self._next = None
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._thread = None

    def _expected(self, step: int, progress: float) -> Batch | None:
        if self._next is None:
            return None
        (key, future), self._next = self._next, None
        if key == (step, progress):
            return future.result()
        # Data sets are read by one thread at a time.
        wait([future])
        return None

    def _made(self, step: int, progress: float) -> Batch:
        indices = batch_indices(step, self.batch_size, len(self.data), self.seed)
        draw = self.objective.draw(
            self.batch_size, self.data.shape, stream(self.seed, step), progress
        )
        draw["step"] = step
        rows = Batch(indices, None, draw).slice(*self.rows)
        labels = self.data.labels(rows.images) if self.labelled else None
        images = self.data.images(rows.images)
        if self.augment:
            how = drawn(self.batch_size, self.augment, stream(self.seed, step, AUGMENTATION))
            how = how.rows(*self.rows)
            images, rows.draw["augment_labels"] = augmented(images, how), how.labels
        batch = Batch(images, labels, rows.draw)
        if self.device.type != "cuda":
            return batch
        with torch.cuda.device(self.device):
            return batch.pinned()
