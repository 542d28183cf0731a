"""Work of a network in floating-point operations, and what the machine's matrix products reach."""

from __future__ import annotations

import functools
import statistics

import torch
from torch import Tensor, nn

from ctm_fast import models
from ctm_fast.denoiser import Denoiser
from ctm_fast.planning.flops import counted as counted
from ctm_fast.planning.flops import network_flops

from .timing import clock

SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192, 16384)}
"""Rows of the square matrices that `matmul_rate` tries."""

REPEATS = 7


def flops(net: nn.Module, batch: int = 1, *, backward: bool = False) -> float:
    """Floating-point operations of one forward: 2 x the multiply-adds of its matrix products.

    Convolutions, linear layers and the two products of attention are counted; normalisation,
    activations and copies are not. It is the work of our arrangement, the smallest of all: DDPM++
    as published takes 0.3 % more, because it doubles the skips before it projects them. Nothing
    is computed and no memory is taken: the network runs on PyTorch's meta device.

    Args:
        net: one of `ctm_fast.models` or a `Denoiser` around it, frozen or not; the count follows
            from its configuration.
        batch: images.
        backward: counts the backward pass to all weights as well (not to the image).

    Raises:
        ValueError: `net` has no configuration of `ctm_fast.models`.
    """
    inner = net.net if isinstance(net, Denoiser) else net
    config = getattr(inner, "config", None)
    if not isinstance(config, (models.SongConfig, models.ADMConfig)):
        raise ValueError(
            f"the work of a {type(inner).__name__} is not known: it has no `config` of "
            "ctm_fast.models; use counted() around a call of it"
        )
    work = network_flops(config)
    return batch * (work.trained if backward else work.forward)


def matmul_rate(dtype: torch.dtype, device: str = "cpu") -> float:
    """Floating-point operations per second of this machine's matrix products, at their best.

    The median over several runs of each of a few sizes of square matrices, full of normal numbers
    (a GPU is faster with zeros); the largest median counts. Measured once per process for each
    dtype, number of threads and precision of float32 products.

    Args:
        dtype: of the matrices.
        device: "cpu" or "cuda".
    """
    if device not in SIZES:
        raise ValueError(f"unknown device {device!r}; choose from {sorted(SIZES)}")
    precision = torch.get_float32_matmul_precision() if dtype == torch.float32 else ""
    return _matmul_rate(dtype, device, torch.get_num_threads(), precision, SIZES[device])


@functools.cache
def _matmul_rate(
    dtype: torch.dtype, device: str, threads: int, precision: str, sizes: tuple[int, ...]
) -> float:
    watch = clock(device)
    best = 0.0
    for size in sizes:
        generator = torch.Generator(device).manual_seed(size)
        shape = (2, size, size)
        a, b = torch.randn(shape, device=device, generator=generator).to(dtype).unbind()
        out = torch.empty_like(a)

        def work(a: Tensor = a, b: Tensor = b, out: Tensor = out) -> None:
            torch.mm(a, b, out=out)

        work()
        prepared = watch.prepare(work)
        seconds = statistics.median(watch.seconds(work, prepared) for _ in range(REPEATS))
        best = max(best, 2 * size**3 / seconds)
    return best
