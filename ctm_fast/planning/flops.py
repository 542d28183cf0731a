"""Work of a network in floating-point operations: 2 x the multiply-adds of its matrix products."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..kernels import use_backend
from ..models.configs import Config
from ..models.presets import net_from_config
from ..models.unet import UNet


class Work(NamedTuple):
    """Floating-point operations of one image."""

    forward: float
    trained: float  # forward and the backward to all weights, but not to the image


def network_flops(config: Config) -> Work:
    """Work of a network per image.

    Convolutions, linear layers and the two products of attention are counted; normalisation,
    activations and copies are not. Nothing is computed and no memory is taken: the network runs on
    PyTorch's meta device.
    """
    return _work(_plain(config))


def encoder_flops(config: Config) -> float:
    """Work of `features`, forward, per image."""
    return _encoder(_plain(config))


def _plain(config: Config) -> Config:
    """The same work, so that it is counted once."""
    return dataclasses.replace(config, dropout=0.0, augment_dim=0)


@functools.cache
def _work(config: Config) -> Work:
    net, inputs = _on_meta(config)
    with FlopCounterMode(display=False) as counter, use_backend("reference"):
        result = net(*inputs)
        forward = counter.get_total_flops()
        result.sum().backward()
        return Work(float(forward), float(counter.get_total_flops()))


@functools.cache
def _encoder(config: Config) -> float:
    net, (x, c_noise, to, labels) = _on_meta(config)
    assert x is not None and c_noise is not None
    with torch.no_grad():
        return counted(lambda: net.features(x, c_noise, labels, to)[-1])


def _on_meta(config: Config) -> tuple[UNet, tuple[Tensor | None, ...]]:
    with torch.device("meta"):
        net = net_from_config(config)
        x = torch.empty(1, config.img_channels, config.img_resolution, config.img_resolution)
        to = torch.empty(1) if config.destination else None
        labels = torch.empty(1, config.label_dim) if config.label_dim else None
        return net, (x, torch.empty(1), to, labels)


def counted(call: Callable[[], Tensor], *, backward: bool = False) -> float:
    """Floating-point operations of the matrix products within a call.

    Args:
        call: run once. Our ops run by their references, because the counter does not know the
            fused ones; so tensors on the meta device spare the time.
        backward: also runs and counts the backward of the result's sum.
    """
    with FlopCounterMode(display=False) as counter, use_backend("reference"):
        result = call()
        if backward:
            result.sum().backward()
    return float(counter.get_total_flops())


@functools.cache
def parameters(config: Config) -> int:
    """Number of weights of a network."""
    return sum(p.numel() for p in _on_meta(config)[0].parameters())
