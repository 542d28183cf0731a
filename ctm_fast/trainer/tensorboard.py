"""`Board`: a run's log, pictures and configuration as TensorBoard shows them (extra `log`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FLUSH = 30  # seconds after which what was written is on the disk


def writer_class() -> Any:
    """PyTorch's `SummaryWriter`.

    Raises:
        ValueError: if TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "tensorboard=True needs the library TensorBoard, which is not installed: "
            'pip install "ctm_fast[log]"'
        ) from error
    return SummaryWriter


class Board:
    """Writes events into a folder, after `step` finished steps.

    What an earlier session wrote of later steps, and this one is about to write again, TensorBoard
    leaves out (its `purge_step`).

    Args:
        folder: for the event files; made if it is not there.
        step: number of finished steps.

    Raises:
        ValueError: if TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path, step: int = 0) -> None:
        # Steps of a log line count what is finished, so `step` itself has been written for good.
        self._writer = writer_class()(str(folder), purge_step=step + 1, flush_secs=FLUSH)

    def config(self, described: Mapping[str, Any], step: int) -> None:
        """The configuration as text."""
        text = json.dumps(described, indent=2)
        self._writer.add_text("config", "\n".join("    " + line for line in text.split("\n")), step)

    def line(self, entry: Mapping[str, Any]) -> None:
        """All numbers of a log line, as "loss/ctm" for entry["loss"]["ctm"]; words as text."""
        step = entry["step"]
        for name, value in _leaves(entry):
            if name in ("step", "images"):
                continue
            if isinstance(value, str):
                self._writer.add_text(name, value, step)
            elif isinstance(value, int | float):
                self._writer.add_scalar(name, value, step)

    def picture(self, name: str, file: str | Path, step: int) -> None:
        """A picture that was written to `file`, on white."""
        with Image.open(file) as picture:
            shown = picture.convert("RGBA")
        white = Image.new("RGBA", shown.size, "white")
        pixels = np.asarray(Image.alpha_composite(white, shown).convert("RGB"))
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Write everything to the disk."""
        self._writer.close()


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        pairs = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list | tuple):
        pairs = [(str(i), inner) for i, inner in enumerate(value)]
    else:
        yield name, value
        return
    for key, inner in pairs:
        yield from _leaves(inner, f"{name}/{key}" if name else key)
