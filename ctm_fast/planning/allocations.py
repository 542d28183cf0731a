"""The memory of a pass through a network, by running it on tensors without data."""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..models.configs import Config
from ..models.presets import net_from_config


class Allocations(TorchDispatchMode):
    """Inside, counts the bytes of all tensors that operations make, until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0  # bytes
        self.peak = 0  # most bytes at any time
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self._add(value)
        return made

    def _add(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.now += self._sizes[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)


def pass_bytes(
    config: Config,
    batch: int,
    dtype: torch.dtype | None = None,
    *,
    backward: bool = True,
    carried: bool = False,
    weights: torch.dtype = torch.float32,
) -> int:
    """Most bytes that a pass needs on top of weights and inputs; gradients are counted.

    Nothing is computed and no memory is taken. The ops are those that this machine's CPU would
    choose; the fused ones of a GPU keep the same tensors for the backward pass.

    Args:
        config: of the network.
        batch: images.
        dtype: of the computation under autocast; None: that of the weights.
        backward: whether all weights get their gradient.
        carried: whether the answer passes through a frozen copy, as CTM's estimate does.
        weights: dtype of the weights.
    """
    # What is told besides the image takes no memory to speak of.
    dropout = 0.1 if config.dropout and backward else 0.0
    plain = dataclasses.replace(config, label_dim=0, augment_dim=0, dropout=dropout)
    return _bytes(plain, batch, dtype, backward, carried, weights)


@functools.cache
def _bytes(
    config: Config,
    batch: int,
    dtype: torch.dtype | None,
    backward: bool,
    carried: bool,
    weights: torch.dtype,
) -> int:
    net = _without_data(config, weights).train(backward)
    frozen = _without_data(config, weights).train().requires_grad_(False) if carried else None
    with FakeTensorMode():
        _to_fake(net)
        size = (batch, config.img_channels, config.img_resolution, config.img_resolution)
        x, level = torch.empty(size, dtype=weights), torch.empty(batch)
        to = torch.empty(batch) if config.destination else None
        if frozen is not None:
            _to_fake(frozen)
        with Allocations() as counter, torch.set_grad_enabled(backward):
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                out = net(x, level, to)
                if frozen is not None:
                    out = frozen(out.float(), level, to)
            if backward:
                out.float().square().sum().backward()
    return counter.peak


def _without_data(config: Config, dtype: torch.dtype) -> nn.Module:
    with torch.device("meta"):
        return net_from_config(config).to(dtype)


def _to_fake(net: nn.Module) -> None:
    """Weights and buffers that seem to be on the CPU, which autocast asks for."""
    for module in net.modules():
        for name, p in module._parameters.items():
            if p is not None:
                fake = torch.empty_strided(p.shape, p.stride(), dtype=p.dtype)
                module._parameters[name] = nn.Parameter(fake, requires_grad=p.requires_grad)
        for name, b in module._buffers.items():
            if b is not None:
                module._buffers[name] = torch.empty_strided(b.shape, b.stride(), dtype=b.dtype)
