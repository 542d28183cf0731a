"""Networks of other code bases on our layers: what they may be, and their weights in ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models import net_from_config
from ..models.configs import ADMConfig, Config
from ..models.diffusers_config import from_module
from ..models.foreign_states import output_rows
from ..models.key_layouts import from_published
from ..models.layers import Conv2d
from ..models.recognise import recognise
from ..models.recognised import Recognised
from ..models.unet import UNet

State = dict[str, Tensor]

# How attention may be divided where nothing says it.
_HEADS: tuple[dict[str, Any], ...] = (
    {"channels_per_head": 64, "num_heads": 1},
    {"channels_per_head": 0, "num_heads": 1},
    {"channels_per_head": 0, "num_heads": 4},
    {"channels_per_head": 32, "num_heads": 1},
)
_ORDERS = {"adm": "new", "adm-legacy": "legacy"}


@dataclass(frozen=True)
class Candidate:
    """A network that a module may be."""

    config: Config
    layout: str  # of its state dict
    rows: int  # channels of its output
    about: str = ""  # what was assumed


def state_of(module: nn.Module) -> State:
    """Its tensors, which are shared, not copied."""
    return {name: value.detach() for name, value in module.state_dict().items()}


def candidates(module: nn.Module, state: State, overrides: Mapping[str, Any]) -> list[Candidate]:
    """Networks that a module may be, the likeliest first.

    Sizes are read from its state dict; what that does not show, from the module: image size, heads,
    group norms. What the module does not show either has more than one candidate.

    Args:
        module: a network without scalings.
        state: its state dict.
        overrides: fields of the configuration, and `attention_order`, that are known.

    Raises:
        ValueError: for a state of something else; where an override contradicts it or means
            nothing.
    """
    given = dict(overrides)
    own = from_module(module, given.pop("img_resolution", None))
    if own is not None:
        _all_used(given)
        return [_candidate(own)]
    told = said_by(module)
    given = _joined(told, overrides)
    first = recognise(state, given)
    _all_used({name: value for name, value in given.items() if name in overrides})
    if not isinstance(first.config, ADMConfig):
        return [_candidate(first)]
    config = first.config
    if first.layout == "diffusers" or not (config.bottleneck_attention or config.attn_resolutions):
        return [_candidate(first)]
    known = {"channels_per_head", "num_heads"} & {*told, *overrides}
    heads: Iterable[dict[str, Any]] = ({},) if known else _HEADS
    fixed = first.layout not in _ORDERS or "attention_order" in overrides
    layouts = [first.layout] if fixed else sorted(_ORDERS, key=lambda name: name != first.layout)
    found = []
    for divided in heads:
        for layout in layouts:
            made = dataclasses.replace(config, **divided)
            said = [f"attention_order={_ORDERS[layout]!r}"] if layout in _ORDERS else []
            said += [f"{name}={getattr(made, name)}" for name in ("channels_per_head", "num_heads")]
            found.append(_candidate(first, made, layout, ", ".join(said)))
    return found if len(found) > 1 else [dataclasses.replace(found[0], about="")]


def said_by(module: nn.Module) -> dict[str, Any]:
    """Fields of `ADMConfig` that a live network shows: image size, heads, eps of its norms."""
    said: dict[str, Any] = {}
    size = getattr(module, "image_size", None)
    if isinstance(size, int) and not isinstance(size, bool):
        said["img_resolution"] = size
    norms = [m for m in module.modules() if "GroupNorm" in type(m).__name__ and hasattr(m, "eps")]
    if len(found := {norm.eps for norm in norms}) == 1:
        said["eps"] = found.pop()
    divided = set()
    for block in module.modules():
        qkv, heads = getattr(block, "qkv", None), getattr(block, "num_heads", None)
        if isinstance(qkv, nn.Module) and isinstance(heads, int) and heads > 0:
            divided.add((int(qkv.weight.shape[1]) // heads, heads))  # type: ignore[index]
    widths, counts = {width for width, _ in divided}, {count for _, count in divided}
    if len(widths) == 1:
        said |= {"channels_per_head": widths.pop(), "num_heads": 1}
    elif len(counts) == 1:
        said |= {"channels_per_head": 0, "num_heads": counts.pop()}
    return said


def rebuilt(state: State, candidate: Candidate) -> UNet:
    """Our network with these weights, in eval mode; it shares their memory where it can.

    Raises:
        ValueError: where names or shapes do not fit.
    """
    kept = candidate.config.img_channels
    weights = from_published(output_rows(state, 0, kept), candidate.config, candidate.layout)
    with torch.device("meta"):
        net = net_from_config(candidate.config)
        if candidate.rows > kept:
            for output in net.outputs.values():
                narrow: Any = output.conv
                output.conv = Conv2d(narrow.in_channels, candidate.rows, narrow.kernel_size[0])
    if candidate.rows > kept:
        rest = output_rows(state, kept, candidate.rows)
        others = from_published(rest, candidate.config, candidate.layout)
        for name in [name for name in weights if name.startswith("outputs.") and ".conv." in name]:
            weights[name] = torch.cat([weights[name], others[name]])
    exact = {torch.float64} & {value.dtype for value in weights.values()}
    dtype = torch.float64 if exact else torch.float32
    weights = {name: value.to(dtype) for name, value in weights.items()}
    net.load_state_dict(weights, assign=True)
    device = next(iter(weights.values())).device
    # What is not stored follows from the configuration, see `models.layers.Constant`.
    for part in net.modules():
        if any(tensor.is_meta for tensor in part.buffers(recurse=False)):
            part.to_empty(device=device, recurse=False)
    return net.eval().requires_grad_(False)


def _joined(told: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Both; what is given comes first."""
    if {"channels_per_head", "num_heads"} & set(given):
        told = {k: v for k, v in told.items() if k not in ("channels_per_head", "num_heads")}
    return {**told, **given}


def _candidate(
    found: Recognised, config: Config | None = None, layout: str = "", about: str = ""
) -> Candidate:
    config = config or found.config
    rows = found.output_rows or config.img_channels
    return Candidate(config, layout or found.layout, rows, about)


def _all_used(left: Mapping[str, Any]) -> None:
    if left:
        raise ValueError(f"{sorted(left)} mean nothing to this network")
