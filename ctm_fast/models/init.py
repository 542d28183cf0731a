"""Random initial weights: one random stream per parameter, named after it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..rng import stream

Draw = Callable[[Tensor, torch.Generator], None]  # fills a CPU tensor


def initialise(net: nn.Module, seed: int, rule: Callable[[str], Draw]) -> None:
    """Fills every parameter of `net` and every buffer called `freqs`; norms become the identity.

    A parameter's values depend on `seed`, its name and its shape only, so networks that share
    layers share their initial weights. Networks on the meta device are left alone.

    Args:
        net: network.
        seed: any integer.
        rule: how a parameter is drawn, from its full name.
    """
    frequencies = [item for item in net.named_buffers() if item[0].endswith("freqs")]
    with torch.no_grad():
        for name, parameter in [*net.named_parameters(), *frequencies]:
            if parameter.is_meta:
                return
            values = torch.empty(parameter.shape)
            rule(name)(values, stream(seed, zlib.crc32(name.encode())))
            parameter.copy_(values)


def constant(value: float) -> Draw:
    """Fills with one value."""
    return lambda tensor, generator: _ignore(tensor.fill_(value))


def normal(std: float) -> Draw:
    """N(0, std^2)."""
    return lambda tensor, generator: _ignore(tensor.normal_(0.0, std, generator=generator))


def xavier_uniform(gain: float) -> Draw:
    """Uniform in +-gain sqrt(6/(fan_in + fan_out)). Source: Glorot & Bengio 2010."""

    def draw(tensor: Tensor, generator: torch.Generator) -> None:
        area = math.prod(tensor.shape[2:])
        bound = gain * math.sqrt(6 / ((tensor.shape[0] + tensor.shape[1]) * area))
        tensor.uniform_(-bound, bound, generator=generator)

    return draw


def uniform(bound: float) -> Draw:
    """Uniform in +-bound."""
    return lambda tensor, generator: _ignore(tensor.uniform_(-bound, bound, generator=generator))


def _ignore(_: Tensor) -> None:
    return None
