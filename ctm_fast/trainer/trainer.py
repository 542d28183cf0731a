"""`Trainer`: trains a student with an objective; the same code for one process and for many."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .. import data as datasets
from ..data import ImageDataset
from ..denoiser import Denoiser
from ..losses.objective import Models, Objective
from . import distributed, state
from .accumulation import Accumulation
from .captured import graph_pool
from .checkpointer import Checkpointer
from .checks import check_augmentation, check_data, check_networks, check_objective
from .companion import companion_betas, companion_rate
from .config import TrainConfig
from .diagnostics import names_of
from .feed import Feed
from .health import Monitor, NonFiniteLoss
from .journal import Journal
from .log import Summary
from .networks import Networks
from .run_folder import RunFolder
from .scaling import Update
from .signals import Signals
from .tensorboard import Board

Callback = Callable[["Trainer", int], None]


class Trainer:
    """Trains `student` with `objective`.

    A run is a folder, and it continues by itself: a Trainer whose `out` holds checkpoints starts
    from the newest one. Data order, noise and dropout are functions of (seed, step), so a resumed
    run repeats the uninterrupted one bit by bit on a CPU. Under torchrun each process works on its
    share of every batch.

    Args:
        objective: loss, see `ctm_fast.losses`.
        student: network to train, in place; float32 weights.
        teacher: pretrained network if the objective needs one; set to eval mode and frozen.
        weak: worse network that guides by its errors, for objectives that take one; frozen.
        data: name, path or open data set, see `ctm_fast.data.open`.
        out: folder for checkpoints, log and config; None keeps nothing.
        config: options, or the path of a `config.json` of an earlier run.
        callbacks: called as callback(trainer, finished steps) on the first process every
            `preview_every` steps and at the end, for example to write sample grids.
        device: where to train; by default this process's GPU, or the CPU if there is none.
        overrides: single options of `TrainConfig`, for example batch_size=512.

    Raises:
        ValueError: for options, networks or data that do not fit together, or a folder that holds
            another run.
        DamagedCheckpoint: if the newest checkpoint of `out` is damaged.
    """

    def __init__(
        self,
        objective: Objective,
        student: Denoiser,
        *,
        teacher: Denoiser | None = None,
        weak: Denoiser | None = None,
        data: str | Path | ImageDataset,
        out: str | Path | None = None,
        config: TrainConfig | str | Path | None = None,
        callbacks: Sequence[Callback] = (),
        device: torch.device | str | None = None,
        **overrides: Any,
    ) -> None:
        if isinstance(config, str | Path):
            config = TrainConfig.read(config)
        self.config = (config or TrainConfig()).replace(**overrides)
        self.objective = objective
        self.callbacks = list(callbacks)
        self.world = distributed.start()
        self.device = torch.device(device) if device is not None else distributed.default_device()
        self.data = datasets.open(data)
        check_objective(objective, teacher)
        for other in (teacher, weak):
            check_networks(student, other)
        check_data(student, self.data)
        check_augmentation(self.config.augment, objective, student)
        networks = student, teacher, weak
        self._networks = Networks(objective, *networks, self.config, self.world, self.device)
        self.student, self.teacher, self.weak = student, self._networks.teacher, self._networks.weak
        self.step = 0
        self._update = Update(
            student,
            self.config,
            self._networks.followers,
            self._networks.companion,
            companion_rate(objective),
            companion_betas(objective),
        )
        scaled = self._update.scaler is not None
        late = self.device.type == "cuda" and not scaled
        told = names_of(objective)
        self._monitor = Monitor(objective.terms, late=late, scaled=scaled, diagnostics=told)
        self._last_loss: dict[str, float] = {}
        self.folder = None if out is None else RunFolder(out)
        self._checkpointer = self._resume()
        place = self.folder, self.world, self.device, self.config
        self._journal = Journal(*place, student, self.emas, self.teacher)
        labelled = self.student.label_dim > 0
        self._feed = Feed(objective, self.data, self.config, self.world, self.device, labelled)
        self._gradients = Accumulation(
            objective,
            self.models,
            self.world,
            batch_size=self.config.batch_size,
            microbatch=self.config.microbatch,
            seed=self.config.seed,
            one_pass=self.config.one_pass,
            pool=graph_pool(self.device) if self.config.capture else None,
        )
        self._gradients.lap = self._journal.lap

    @property
    def models(self) -> Models:
        """All networks as the objective sees them."""
        return self._networks.models

    @property
    def emas(self) -> list[Denoiser]:
        """Averages of the student, in the order of `ema`, then `ema_halflife_kimg`; eval mode."""
        return [average.model for average in self._networks.averages]

    @property
    def ema(self) -> Denoiser:
        """The first average; the student itself if the run keeps none."""
        return self.emas[0] if self.emas else self.student

    @property
    def board(self) -> Board | None:
        """TensorBoard's writer, for callbacks; None without the option, and outside of `fit`."""
        return self._journal.board

    @property
    def images_seen(self) -> int:
        """Images of all finished steps."""
        return self.step * self.config.batch_size

    def fit(self, steps: int | None = None) -> Summary:
        """Train until `steps` steps are finished in all, counting those of earlier runs.

        SIGTERM and Ctrl-C end the current step, save, and leave with status 143 or
        KeyboardInterrupt.

        Args:
            steps: replaces the option of that name.

        Raises:
            NonFiniteLoss: as soon as a loss, gradient or weight is not finite.
            Alarmed: for an alarm with alarms="stop".
            OutOfMemory: for a step that does not fit, however the batch is split.
        """
        if steps is not None:
            self.config = self.config.replace(steps=steps)
        started = time.perf_counter()
        hidden = not (self.config.progress_bar and self.world.first)
        bar = tqdm(total=self.config.steps, initial=self.step, disable=hidden, unit="step")
        writing = self._checkpointer.writing() if self._checkpointer else nullcontext()
        described = {**self._identity, "train": self.config.to_json()}
        journal = self._journal.session(self.step, described)
        with writing, Signals() as signals, bar, self._feed, journal:
            self._monitor.stop = False
            begun = self.step
            while self.step < self.config.steps and not self._stopping(signals):
                self._advance(signals)
                bar.update()
                if self.step % self.config.log_every == 0:
                    self._write_log(bar)
                if _due(self.step, self.config.preview_every):
                    self._call_back()
                if _due(self.step, self.config.checkpoint_every):
                    self.save()
            self._monitor.flush()
            if self.step > begun:
                self.save()
            if distributed.any_process(self.world, signals.asked is not None):
                self._gradients.release()
                signals.leave()
            if self.step > begun and not _due(self.step, self.config.preview_every):
                self._call_back()
        self._gradients.release()
        return Summary(
            self.step,
            self.images_seen,
            time.perf_counter() - started,
            self._last_loss or self._monitor.window.means()["loss"],
            self._monitor.checkpoint,
        )

    def save(self) -> Path | None:
        """Write a checkpoint of this step, unless it exists; returns its path, None without `out`.

        Raises:
            NonFiniteLoss: if a weight is not finite; nothing is written then.
            OSError: if the file cannot be written; the one before is kept.
        """
        self._monitor.flush()
        if self._checkpointer is None:
            return None
        self._monitor.checkpoint = self._checkpointer.save(self.step, self.config.keep)
        return self._monitor.checkpoint

    def _progress(self, step: int) -> float:
        return min(step / self.config.steps, 1.0)

    def _advance(self, signals: Signals) -> None:
        """One optimizer step, of the weights and of their averages."""
        step, progress, update = self.step, self._progress(self.step), self._update
        lap = self._journal.lap
        lap("writing")
        batch = self._feed(step, progress)
        lap("data")
        if step + 1 < self.config.steps:
            self._feed.expect(step + 1, self._progress(step + 1))
        self._gradients.prepare(step, batch, progress)
        lap("prepare")
        decays = self._networks.decays(self.images_seen, self.config.batch_size, progress)
        lr, moves = self.config.learning_rate(step), self._networks.trained(step)
        applied = False
        while not applied:
            asked = signals.asked is not None
            numbers = self._gradients(step, batch, progress, update.scale, asked)
            self._monitor.watch(step, numbers)
            applied = update(numbers.total, lr, decays, moves)
            if update.scale < 1:
                checkpoint = self._monitor.checkpoint
                raise NonFiniteLoss(step, "all terms", "the unscaled gradient", checkpoint)
        self._networks.moved(moves)
        lap("optimizer")
        self.step += 1

    def _stopping(self, signals: Signals) -> bool:
        """Whether to stop here; with several processes, once all have heard of it."""
        return self._monitor.stop or (self.world.size == 1 and signals.asked is not None)

    def _write_log(self, bar: Any) -> None:
        self._monitor.flush()
        means = self._monitor.window.means()
        self._monitor.window.reset()
        self._last_loss |= means["loss"]
        bar.set_postfix({name: f"{value:.4g}" for name, value in means["loss"].items()})
        entry = {
            "step": self.step,
            "images": self.images_seen,
            **means,
            "lr": self.config.learning_rate(self.step - 1),
            **self._gradients.noted,
        }
        if self._update.scaler is not None:
            entry["loss_scale"] = self._update.scale
        self._journal.write(entry, self._monitor.checkpoint)

    def _call_back(self) -> None:
        self._monitor.flush()
        error: Exception | None = None
        if self.world.first:
            try:
                for callback in self.callbacks:
                    callback(self, self.step)
            except Exception as caught:
                error = caught
        distributed.raise_together(self.world, error)

    def _resume(self) -> Checkpointer | None:
        """Continue from the newest checkpoint of `out`."""
        identity = state.describe(
            self.config, self.objective, self.student, self.teacher, self.data, self.weak
        )
        distributed.check_same(self.world, "the run's configuration", identity)
        self._identity = identity
        if self.folder is None:
            return None
        modules, window = self._networks.modules, self._monitor.window
        checkpointer = Checkpointer(
            self.folder, self.world, identity, modules, self._update, window
        )
        self.step = checkpointer.resume()
        self._monitor.checkpoint = checkpointer.newest
        return checkpointer


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
