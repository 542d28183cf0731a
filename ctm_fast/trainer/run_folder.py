"""The folder of a run: `config.json`, `log.jsonl`, `checkpoints/step-*.safetensors`, events."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

from ..checkpoints.files import remove_temporaries

_NAME = re.compile(r"step-(\d{8,})\.safetensors")


class RunFolder:
    """Paths of a run, and which checkpoints it holds.

    A checkpoint file has its final name only once it is completely on the disk, so every file
    that is found counts; one that turns out damaged is an error, never skipped.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.config = self.path / "config.json"
        self.log = self.path / "log.jsonl"
        self.events = self.path / "tensorboard"

    def create(self) -> None:
        """Make the folder.

        Raises:
            ValueError: if something else has its name.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ValueError(f"cannot make the run folder {self.path}: not a folder") from None

    def lock(self) -> IO[str]:
        """Take the folder for this process until the returned file is closed or the process ends.

        What a killed process left half written is removed.

        Raises:
            ValueError: if another process has it.
        """
        file = (self.path / ".lock").open("a")
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise ValueError(f"another process is training in {self.path}") from None
            except OSError:
                # Some network file systems know no locks.
                pass
        remove_temporaries(self.path)
        remove_temporaries(self.checkpoints)
        return file

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint after `step` steps is kept."""
        return self.checkpoints / f"step-{step:08d}.safetensors"

    def steps(self) -> list[int]:
        """Steps of the checkpoints that exist, ascending."""
        matches = (_NAME.fullmatch(path.name) for path in self.checkpoints.glob("step-*"))
        return sorted(int(match[1]) for match in matches if match)

    def latest(self) -> Path | None:
        """Newest checkpoint, or None."""
        steps = self.steps()
        return self.checkpoint(steps[-1]) if steps else None

    def prune(self, keep: int) -> None:
        """Delete all but the newest `keep` checkpoints; call it once the newest is durable."""
        for step in self.steps()[:-keep]:
            self.checkpoint(step).unlink(missing_ok=True)
