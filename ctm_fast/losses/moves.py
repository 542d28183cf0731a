"""Jumps of those images alone that move, where the CPU knows which they are."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..sigmas import karras_sigmas


def moving_rows(index: Tensor | None, index_to: Tensor | int | None) -> Tensor | None:
    """Rows whose two grid indices differ, int64 on the CPU; None where the CPU cannot tell.

    Args:
        index: (batch,) int64 grid indices on the CPU, or None.
        index_to: as `index`, or one number for all images.
    """
    if index is None or index_to is None:
        return None
    return (index != index_to).nonzero().flatten()


def jump_rows(
    model: Denoiser,
    x: Tensor,
    sigma: Tensor,
    sigma_to: Tensor,
    labels: Tensor | None,
    rows: Tensor | None,
) -> Tensor:
    """G(x, sigma, sigma_to), the network being called for `rows` only; shape of x.

    The other images must have sigma_to = sigma, where a jump is the identity exactly for every
    outer parametrisation: on the published grids that is a third to a half of the jumps to
    sigma_min. Nothing waits for the device. With `rows` None all images go through the network.
    """
    if rows is None or len(rows) == len(x):
        return model.jump(x, sigma, sigma_to, labels)
    if len(rows) == 0:
        return x
    rows = on_device(rows, x.device)
    # One row of labels may serve all images.
    kept = labels if labels is None or len(labels) == 1 else labels.index_select(0, rows)
    moved = model.jump(
        x.index_select(0, rows),
        sigma.index_select(0, rows),
        sigma_to.index_select(0, rows),
        kept,
    )
    return x.index_copy(0, rows, moved)


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on `device`, without waiting for what is queued there."""
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


@lru_cache(maxsize=16)
def grid(
    num_scales: int, sigma_min: float, sigma_max: float, rho: float, device: torch.device
) -> Tensor:
    """Karras grid (num_scales,) float32 on `device`, made once; not to be written to."""
    with torch.inference_mode(False):
        sigmas = karras_sigmas(num_scales, sigma_min, sigma_max, rho)
        return sigmas.to(device, torch.float32)
