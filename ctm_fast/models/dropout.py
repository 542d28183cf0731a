"""Dropout masks that two passes can share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def shared_dropout(device: torch.device | str, seed: int) -> Iterator[None]:
    """Inside, what dropout draws on `device` depends on `seed` and on the shapes only.

    Two passes over batches of the same shape therefore use the same masks. The random state from
    before is back afterwards. Not for use while a CUDA graph is being captured.

    Args:
        device: where the network runs.
        seed: any integer in [-2**63, 2**64).
    """
    generator = _default_generator(torch.device(device))
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)


@contextmanager
def replayed(device: torch.device | str) -> Iterator[None]:
    """What is drawn on `device` inside is drawn again after it.

    A pass inside and the next pass of the same shapes after it therefore use the same dropout
    masks. Not for use while a CUDA graph is being captured.

    Args:
        device: where the network runs.
    """
    generator = _default_generator(torch.device(device))
    before = generator.get_state()
    try:
        yield
    finally:
        generator.set_state(before)


def _default_generator(device: torch.device) -> torch.Generator:
    if device.type == "cpu":
        return torch.default_generator
    if device.type == "cuda":
        torch.cuda.init()
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    raise ValueError(f"dropout can be shared on cpu and cuda devices, not on {device.type!r}")
