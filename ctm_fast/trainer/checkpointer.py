"""Writing the checkpoints of a run and continuing from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoints.files import DamagedCheckpoint, library_version, not_finite, write_tensors
from . import state
from .distributed import World, from_first, raise_together
from .health import NonFiniteLoss
from .log import Window
from .run_folder import RunFolder
from .scaling import Update


class Checkpointer:
    """Saves a run's complete state and restores it.

    Only the first process writes; all read, so `folder` has to be on a disk that all see. When
    one process fails, all raise.

    Args:
        folder: of the run.
        world: this process among all.
        identity: what makes the run this run, `state.describe`.
        modules: "student", "companion", "target", "ema/0", ... by name.
        update: optimizers and loss scale.
        window: sums of the log line in progress.
    """

    def __init__(
        self,
        folder: RunFolder,
        world: World,
        identity: Mapping[str, Any],
        modules: Mapping[str, nn.Module],
        update: Update,
        window: Window,
    ) -> None:
        self.folder = folder
        self.world = world
        self.identity = identity
        self.modules = modules
        self.update = update
        self.window = window
        self.newest: Path | None = None  # newest checkpoint that is known to be good

    def resume(self) -> int:
        """Restore the newest checkpoint; returns its step, 0 if there is none.

        Raises:
            DamagedCheckpoint: if it is damaged; older ones are never taken silently.
            ValueError: if it belongs to another run.
        """
        self._together(lambda: self.folder.create() if self.world.first else None)
        path = from_first(self.world, self.folder.latest())
        if path is None:
            return 0
        return self._together(lambda: self._restore(path))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Inside, no other process can train in the folder.

        Raises:
            ValueError: if another one does.
        """
        lock = self._together(lambda: self.folder.lock() if self.world.first else None)
        try:
            yield
        finally:
            if lock is not None:
                lock.close()

    def save(self, step: int, keep: int) -> Path:
        """Write the checkpoint of `step` unless it exists, then delete all but `keep`.

        Raises:
            NonFiniteLoss: if a value is not finite; nothing is written.
            OSError: if the file cannot be written; the older ones are kept.
        """
        path = self.folder.checkpoint(step)
        if path != self.newest:
            self._together(lambda: self._write(path, step, keep) if self.world.first else None)
            self.newest = path
        return path

    def _restore(self, path: Path) -> int:
        try:
            tensors, header = state.load(path, self.identity)
            state.restore(path, tensors, self.modules, self.update.optimizers)
        except DamagedCheckpoint as error:
            older = self.folder.steps()[:-1]
            where = f"continue from step {older[-1]}" if older else "start anew"
            advice = f"to {where}, move the file away"
            raise DamagedCheckpoint(f"{error} ({advice})") from None
        self.update.restore(header["scaler"])
        self.window.restore(header["window"])
        self.newest = path
        return int(header["step"])

    def _write(self, path: Path, step: int, keep: int) -> None:
        tensors = state.collect(self.modules, self.update.optimizers)
        if bad := not_finite(tensors):
            raise NonFiniteLoss(step, bad[0], "the value", self.newest)
        header = {
            "format": state.FORMAT,
            "version": state.VERSION,
            "library_version": library_version(),
            "torch_version": str(torch.__version__),
            "step": step,
            "identity": self.identity,
            "scaler": self.update.to_json(),
            "window": self.window.to_json(),
        }
        write_tensors(path, tensors, header)
        self.folder.prune(keep)

    def _together(self, action: Callable[[], Any]) -> Any:
        """Result of `action`, after every process has done its own without an error."""
        error, result = None, None
        try:
            result = action()
        except (OSError, RuntimeError, ValueError) as caught:
            error = caught
        raise_together(self.world, error)
        return result
