"""`Journal`: what a run tells of itself, in `config.json`, `log.jsonl` and TensorBoard."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ..checkpoints.files import write_text
from .alarms import Alarmed, Alarms, Drift
from .config import TrainConfig
from .distributed import World, from_first, raise_together
from .health import NonFiniteLoss
from .log import Log, memory
from .power import Power
from .run_folder import RunFolder
from .tensorboard import Board, writer_class
from .throughput import Throughput

LOG = logging.getLogger("ctm_fast")


class Journal:
    """Adds speed, memory, energy, drift and alarms to every log line, and writes it.

    Only the first process measures and writes. Speed is that of all processes, memory and energy
    those of its own device, energy per image that of its own share.

    An alarm is a warning of the logger "ctm_fast", a line above the progress bar, and `alarm` in
    the log line: a list of sentences. With alarms="stop" it also ends the run, on all processes.

    Args:
        folder: of the run; None keeps nothing.
        world: this process among all.
        device: that trains.
        config: batch_size, alarms and tensorboard.
        student: network that is trained.
        averages: of it.
        teacher: whose evaluations are counted, or None.
        say: prints a line; tqdm's by default.

    Raises:
        ValueError: for tensorboard=True without a folder, or without the library.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        world: World,
        device: torch.device,
        config: TrainConfig,
        student: nn.Module,
        averages: Sequence[nn.Module] = (),
        teacher: Any = None,
        say: Callable[[str], object] = tqdm.write,
    ) -> None:
        if config.tensorboard:
            writer_class()
            if folder is None:
                raise ValueError("tensorboard=True needs a folder for its events: out=FOLDER")
        self.folder, self.world, self.device, self.config = folder, world, device, config
        self.say = say
        self.board: Board | None = None
        self._log = Log(folder.log if folder and world.first else None)
        self._alarms = Alarms()
        self._drift = Drift(student, averages)
        self._power = Power(device)
        self._throughput = Throughput(device, teacher, world.size)
        self._images = 0
        # The time since the last call belongs to the named part of a step.
        self.lap: Callable[[str], None] = self._throughput.lap if world.first else _nothing

    @contextmanager
    def session(self, step: int, described: Mapping[str, Any]) -> Iterator[None]:
        """Inside, lines of the steps after `step` are written; older lines of those are removed.

        A value that is not finite leaves a last line with its alarm, which a run that continues
        removes.

        Args:
            step: number of finished steps.
            described: what the run is, in JSON types, for `config.json` and TensorBoard.
        """
        error: Exception | None = None
        try:
            if self.world.first:
                self._begin(step, described)
        except (OSError, ValueError) as caught:
            error = caught
        try:
            raise_together(self.world, error)
            yield
        except NonFiniteLoss as bad:
            if self.world.first:
                sentence = str(bad)
                self._put({"step": bad.step + 1, "alarm": [f"not finite: {sentence}"]})
            raise
        finally:
            self._throughput.stop()
            self._power.stop()
            board, self.board = self.board, None
            if board is not None:
                board.close()

    def write(self, entry: Mapping[str, Any], checkpoint: Path | None = None) -> None:
        """Complete a log line and write it; all processes have to call this.

        Args:
            entry: step, images, and what the step measured.
            checkpoint: the last one, which an alarm that ends the run names.

        Raises:
            Alarmed: for an alarm with alarms="stop".
        """
        found: list[str] = []
        if self.world.first:
            line = {**entry, **self._measured(entry["images"])}
            if self.config.alarms != "off":
                line |= self._drift.entry()
                found = self._alarms.check(line)
            if found:
                line["alarm"] = found
                self._warn(line["step"], found)
            self._put(line)
        if self.config.alarms == "stop":
            found = from_first(self.world, found)
            if found:
                raise Alarmed(entry["step"], found, checkpoint)

    def _begin(self, step: int, described: Mapping[str, Any]) -> None:
        if self.folder is not None:
            write_text(self.folder.config, json.dumps(described, indent=2) + "\n")
        self._log.cut(step)
        self._alarms.restore(self._log.entries())
        self._images = step * self.config.batch_size
        if self.config.tensorboard and self.folder is not None:
            self.board = Board(self.folder.events, step)
            self.board.config(described, step)
        self._drift.start()
        self._power.start()
        self._throughput.start()

    def _measured(self, seen: int) -> dict[str, Any]:
        images, self._images = seen - self._images, seen
        own = images // self.world.size
        return self._throughput.entry(images) | memory(self.device) | self._power.entry(own)

    def _put(self, line: Mapping[str, Any]) -> None:
        self._log.write(dict(line))
        if self.board is not None:
            self.board.line(line)

    def _warn(self, step: int, alarms: Sequence[str]) -> None:
        for alarm in alarms:
            words = f"alarm after step {step}: {alarm}"
            # Without a handler Python would print it once more.
            if LOG.hasHandlers():
                LOG.warning("%s", words)
            self.say(words)


def _nothing(part: str) -> None:
    """What a process does with a lap that does not measure."""
