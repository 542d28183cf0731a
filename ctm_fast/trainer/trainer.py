"""`Trainer`: trains a student with an objective; the same code for one process and for many."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from .. import data as datasets
from ..checkpoints.files import write_text
from ..data import ImageDataset
from ..denoiser import Denoiser
from ..losses.objective import Models, Objective
from . import distributed, state
from .captured import graph_pool
from .checkpointer import Checkpointer
from .checks import check_data, check_networks, check_objective
from .companion import companion_of, companion_rate, frozen
from .config import PRECISIONS, TrainConfig
from .ema import Rate, averages
from .feed import Feed
from .gradients import StepGradients
from .health import Monitor, NonFiniteLoss
from .log import Clock, Log, Summary, peak_memory
from .run_folder import RunFolder
from .scaling import Update
from .signals import Signals
from .target import Target, target_decay

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
        self.student = student.to(self.device).train()
        distributed.same_weights(self.world, self.student)
        self.student.dtype = PRECISIONS[self.config.precision]
        self.teacher, self.weak = (frozen(model, self.device) for model in (teacher, weak))
        self._companion = companion_of(objective, self.student, self.world, self.device)
        self.step = 0
        self._averages = averages(self.student, self.config)
        wanted = "target" in objective.needs
        self._target = Target(self.student, Rate(self.config.target_ema)) if wanted else None
        followers = [*self._averages, *([self._target] if self._target else [])]
        beside = self._companion, companion_rate(objective)
        self._update = Update(self.student, self.config, followers, *beside)
        scaled = self._update.scaler is not None
        late = self.device.type == "cuda" and not scaled
        self._monitor = Monitor(objective.terms, late=late, scaled=scaled)
        self._last_loss: dict[str, float] = {}
        self.folder = None if out is None else RunFolder(out)
        self._checkpointer = self._resume()
        writes = self.folder is not None and self.world.first
        self._log = Log(self.folder.log if self.folder and writes else None)
        labelled = self.student.label_dim > 0
        self._feed = Feed(objective, self.data, self.config, self.world, self.device, labelled)
        self._gradients = StepGradients(
            objective,
            self.models,
            self.world,
            batch_size=self.config.batch_size,
            microbatch=self.config.microbatch,
            seed=self.config.seed,
            one_pass=self.config.one_pass,
            pool=graph_pool(self.device) if self.config.capture else None,
        )

    @property
    def models(self) -> Models:
        """All networks as the objective sees them."""
        target = None if self._target is None else self._target.network
        return Models(self.student, target, self.teacher, self._companion, self.weak)

    @property
    def emas(self) -> list[Denoiser]:
        """Averages of the student, in the order of `ema`, then `ema_halflife_kimg`; eval mode."""
        return [average.model for average in self._averages]

    @property
    def ema(self) -> Denoiser:
        """The first average; the student itself if the run keeps none."""
        return self.emas[0] if self._averages else self.student

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
        """
        if steps is not None:
            self.config = self.config.replace(steps=steps)
        started, clock = time.perf_counter(), Clock()
        hidden = not (self.config.progress_bar and self.world.first)
        bar = tqdm(total=self.config.steps, initial=self.step, disable=hidden, unit="step")
        writing = self._checkpointer.writing() if self._checkpointer else nullcontext()
        with writing, Signals() as signals, bar, self._feed:
            self._write_config()
            self._log.cut(self.step)
            self._monitor.stop = False
            begun = self.step
            while self.step < self.config.steps and not self._stopping(signals):
                self._advance(signals)
                clock.add(self.config.batch_size)
                bar.update()
                if self.step % self.config.log_every == 0:
                    self._write_log(clock, bar)
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
        batch = self._feed(step, progress)
        if step + 1 < self.config.steps:
            self._feed.expect(step + 1, self._progress(step + 1))
        self._gradients.prepare(step, batch, progress)
        decays = [a.decay(self.images_seen, self.config.batch_size) for a in update.averages]
        asked_for = target_decay(self.objective, progress)
        if self._target is not None and asked_for is not None:
            decays[-1] = asked_for
        applied = False
        while not applied:
            asked = signals.asked is not None
            numbers = self._gradients(step, batch, progress, update.scale, asked)
            self._monitor.watch(step, numbers)
            applied = update(numbers.total, self.config.learning_rate(step), decays)
            if update.scale < 1:
                checkpoint = self._monitor.checkpoint
                raise NonFiniteLoss(step, "all terms", "the unscaled gradient", checkpoint)
        if self._target is not None:
            self._target.refresh()
        self.step += 1

    def _stopping(self, signals: Signals) -> bool:
        """Whether to stop here; with several processes, once all have heard of it."""
        return self._monitor.stop or (self.world.size == 1 and signals.asked is not None)

    def _write_config(self) -> None:
        if self.folder is not None and self.world.first:
            described = {**self._identity, "train": self.config.to_json()}
            write_text(self.folder.config, json.dumps(described, indent=2) + "\n")

    def _write_log(self, clock: Clock, bar: Any) -> None:
        self._monitor.flush()
        means = self._monitor.window.means()
        self._monitor.window.reset()
        self._last_loss = means["loss"]
        bar.set_postfix({name: f"{value:.4g}" for name, value in means["loss"].items()})
        entry = {
            "step": self.step,
            "images": self.images_seen,
            **means,
            "lr": self.config.learning_rate(self.step - 1),
            "sec_per_kimg": round(clock.restart(), 4),
            "peak_memory_mib": round(peak_memory(self.device), 1),
        }
        if self._update.scaler is not None:
            entry["loss_scale"] = self._update.scale
        self._log.write(entry)

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
        modules: dict[str, nn.Module] = {"student": self.student}
        if self._companion is not None:
            modules["companion"] = self._companion
        if self._target is not None:
            modules["target"] = self._target.model
        modules |= {f"ema/{i}": model for i, model in enumerate(self.emas)}
        checkpointer = Checkpointer(
            self.folder, self.world, identity, modules, self._update, self._monitor.window
        )
        self.step = checkpointer.resume()
        self._monitor.checkpoint = checkpointer.newest
        return checkpointer


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
