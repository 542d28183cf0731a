"""A network from its configuration and weights, without holding the weights twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .. import models
from ..denoiser import Denoiser
from ..inference.heap import trim_heap
from ..models.configs import Config, SongConfig
from ..models.key_layouts import from_published
from .files import DamagedCheckpoint
from .found import Found

# Weights that are stored in anything narrower or in a mixture are computed in float32.
_OWN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_TRIM_EVERY = 16 << 20  # bytes of weights
_MOST_TAPS = 64  # of a resampling filter; published ones have 2 and 4


def built(
    found: Found, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Denoiser:
    """The model that a reader found, in eval mode, with `found.notes` as its `notes`.

    `found.state` is empty afterwards: each tensor is freed as soon as it has been moved in.

    Args:
        found: what the reader of a format learned.
        device: where the weights go.
        dtype: compute dtype of the network, see `Denoiser`; None computes in the weights' dtype.

    Raises:
        ValueError: if names or shapes are not those of the network, or what surrounds it cannot be.
        DamagedCheckpoint: for weights that are not finite.
    """
    check_plausible(found.config, found.state)
    # All that can be refused without the weights is refused before they are touched.
    check_levels(found.sigma_min, found.sigma_max, found.precond.sigma_data)
    net = empty_net(found.config)
    options = {"sigma_min": found.sigma_min, "sigma_max": found.sigma_max}
    denoiser = Denoiser(net, found.precond, kind=found.kind, dtype=dtype, **options)
    weights = from_published(found.state, found.config, found.layout)
    found.state.clear()
    stored = {name: value.dtype for name, value in weights.items()}
    if bad := fill(net, weights.pop, common_dtype(stored), device):
        raise DamagedCheckpoint(f"the weights are not finite: {some(bad)}")
    denoiser.notes = tuple(found.notes)
    return denoiser.eval()


def empty_net(config: Config) -> models.UNet:
    """Network on the meta device: shapes without memory.

    Raises:
        ValueError: if the configuration cannot be built.
    """
    try:
        with torch.device("meta"):
            return models.net_from_config(config)
    except (TypeError, RuntimeError, OverflowError, ArithmeticError) as error:
        raise ValueError(f"the network cannot be built: {error}") from None


@torch.no_grad()
def fill(
    net: nn.Module,
    take: Callable[[str], Tensor],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> list[str]:
    """Give a network on the meta device its weights, one at a time, in its own memory order.

    Args:
        net: network on the meta device.
        take: gives the tensor of a name, of the right shape; it is not kept.
        dtype: of the weights.
        device: where they go.

    Returns:
        names of the weights that are not finite; the network is of no use then.
    """
    bad: list[str] = []
    moved = 0
    for name, empty in net.state_dict(keep_vars=True).items():
        own = torch.empty_strided(empty.shape, empty.stride(), dtype=dtype, device=device)
        own.copy_(take(name))
        if not bool(torch.isfinite(own).all()):
            bad.append(name)
        moved += own.nbytes
        if moved > _TRIM_EVERY:
            trim_heap()
            moved = 0
        path, _, leaf = name.rpartition(".")
        place = net.get_submodule(path)
        if isinstance(empty, nn.Parameter):
            setattr(place, leaf, nn.Parameter(own, requires_grad=empty.requires_grad))
        else:
            place.register_buffer(leaf, own)
    # What is not stored follows from the configuration, see `models.layers.Constant`.
    for module in net.modules():
        if any(tensor.is_meta for tensor in module.buffers(recurse=False)):
            module.to_empty(device=device, recurse=False)
    return bad


def common_dtype(stored: Mapping[str, torch.dtype]) -> torch.dtype:
    """The dtype of all weights; float32 where they differ or are narrower than 16 bits.

    Args:
        stored: dtype of every weight, by its name.

    Raises:
        ValueError: for weights that are not real floating-point numbers.
    """
    if wrong := [name for name, dtype in stored.items() if not dtype.is_floating_point]:
        raise ValueError(f"the weights are not floating-point numbers: {some(wrong)}")
    found = set(stored.values())
    only = next(iter(found)) if len(found) == 1 else torch.float32
    if torch.float64 in found:
        return torch.float64
    return only if only in _OWN else torch.float32


def check_levels(sigma_min: float, sigma_max: float, sigma_data: float) -> None:
    """Raise ValueError unless the three are finite positive numbers."""
    levels = {"sigma_min": sigma_min, "sigma_max": sigma_max, "sigma_data": sigma_data}
    for name, value in levels.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            raise ValueError(f"{name} must be a finite number > 0, got {value!r}")


def check_plausible(config: Config, state: Mapping[str, Tensor]) -> None:
    """Raise ValueError for a network that is far larger than the tensors it should be made of.

    A damaged or hostile description would otherwise be built for hours.
    """
    widest = max((max(value.shape, default=1) for value in state.values()), default=0)
    levels = len(config.channel_mult)
    checks = {
        "num_blocks": (config.num_blocks * levels, len(state)),
        "model_channels": (config.model_channels, widest),
        "channel_mult_noise": (config.noise_channels, widest),
    }
    if isinstance(config, SongConfig):
        checks["resample_filter"] = (len(config.resample_filter), _MOST_TAPS)
    for name, (asked, most) in checks.items():
        if asked > most:
            raise ValueError(
                f"{name}={getattr(config, name)!r} does not fit the {len(state)} tensors that "
                "are there"
            )


def some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:4]) or "nothing"
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")
