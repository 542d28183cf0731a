"""Tensors of a safetensors file, read one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .files import DamagedCheckpoint


class StoredTensors(Mapping[str, Tensor]):
    """Reads a tensor when it is asked for and keeps none, so that one fits where two would not.

    Each tensor is a copy that nothing else refers to. The file is not held open.

    Args:
        path: a .safetensors file.

    Raises:
        DamagedCheckpoint: for a file that is not readable as safetensors, here or later.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.meta: dict[str, Tensor] = {}  # names, shapes and dtypes, on the meta device
        try:
            with safe_open(path, framework="pt") as file:
                self.metadata: dict[str, str] = dict(file.metadata() or {})
                for name in file.keys():  # noqa: SIM118
                    view = file.get_tensor(name)
                    self.meta[name] = torch.empty_like(view, device="meta")
        except (SafetensorError, OSError) as error:
            raise DamagedCheckpoint(f"{path} is damaged or no safetensors file: {error}") from None

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.meta:
            raise KeyError(name)
        try:
            # A view of the mapped file: its pages count as ours until the last view is gone.
            with safe_open(self.path, framework="pt") as file:
                return file.get_tensor(name).clone()
        except (SafetensorError, OSError) as error:
            raise DamagedCheckpoint(f"{self.path} is damaged: {error}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.meta)

    def __len__(self) -> int:
        return len(self.meta)
