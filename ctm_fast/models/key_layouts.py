"""State dicts of published networks to ours and back: names, and the order of attention rows.

Layouts, each with or without a destination embedding:

- "edm": NVlabs/edm's SongUNet and DhariwalUNet, and ctm-cifar10's SongUNet. Rows of qkv are
  (head, head_dim, {q, k, v}); constant `resample_filter` tensors are part of the state.
- "adm": openai's and sony/ctm's UNetModel. Rows of qkv are ({q, k, v}, head, head_dim), as ours.
- "adm-legacy": the same names with rows (head, {q, k, v}, head_dim), which the legacy attention of
  openai/guided-diffusion and ctm-cifar10 reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import ResBlock
from .configs import ADMConfig, Config, SongConfig
from .presets import net_from_config
from .published_names import adm_names, edm_constants, edm_names, no_constants
from .unet import UNet

Rows = Callable[[Tensor, int], Tensor]

PREFIXES = ("module.", "model.")  # what wrappers put before every name


@dataclass(frozen=True)
class Layout:
    """How one code base stores the networks."""

    families: tuple[type[Config], ...]  # configurations that it can hold
    names: Callable[[UNet], dict[str, str]]  # our name -> published name
    constants: Callable[[UNet], dict[str, Tensor]]  # published tensors that follow from the config
    rows_in: Rows  # published qkv rows -> ours
    rows_out: Rows  # our qkv rows -> published
    class_table_transposed: bool  # (classes, channels) instead of our (channels, classes)


def from_published(state: Mapping[str, Tensor], config: Config, layout: str) -> dict[str, Tensor]:
    """Our state dict from a published one.

    Args:
        state: published names and tensors; a common prefix such as "model." is ignored.
        config: the network that the tensors belong to.
        layout: "edm", "adm" or "adm-legacy".

    Raises:
        ValueError: for an unknown layout, one that cannot hold such a network, missing or left
            over names, wrong shapes, or another resampling filter than the configuration's.
    """
    chosen, net = _prepared(config, layout)
    state = without_prefix(state)
    own = net.state_dict()
    names, constants = chosen.names(net), chosen.constants(net)
    missing = sorted(set(names.values()) - set(state))
    left_over = sorted(set(state) - set(names.values()) - set(constants))
    if missing or left_over:
        raise ValueError(
            f"not the {layout!r} state of this network: missing {_few(missing)}, "
            f"left over {_few(left_over)}{_hint(names, missing, left_over)}"
        )
    for name in set(constants) & set(state):
        expected = constants[name]
        found = state[name].to("cpu", torch.float32)
        if found.shape != expected.shape or not torch.allclose(found, expected, atol=1e-3):
            raise ValueError(f"{name} differs from the filter that the configuration asks for")
    heads = _heads(net)
    native = {}
    for name, published in names.items():
        value = state[published]
        if name in heads:
            value = chosen.rows_in(value, heads[name])
        elif name == "map_label.weight" and chosen.class_table_transposed:
            value = value.t()
        native[name] = _shaped(value, own[name].shape, published)
    return native


def to_published(
    state: Mapping[str, Tensor], config: Config, layout: str, prefix: str = ""
) -> dict[str, Tensor]:
    """Published state dict from ours, each tensor contiguous in its usual order.

    Args:
        state: our names and tensors, all of them.
        config: the network that the tensors belong to.
        layout: "edm", "adm" or "adm-legacy".
        prefix: put before every published name, for example "model.".

    Raises:
        ValueError: for an unknown layout, one that cannot hold such a network, or missing or left
            over names.
    """
    chosen, net = _prepared(config, layout)
    names = chosen.names(net)
    missing, left_over = sorted(set(names) - set(state)), sorted(set(state) - set(names))
    if missing or left_over:
        raise ValueError(
            f"not the state of this network: missing {_few(missing)}, left over {_few(left_over)}"
        )
    heads = _heads(net)
    out = {}
    for name, published in names.items():
        value = state[name]
        if name in heads:
            value = chosen.rows_out(value, heads[name])
        elif name == "map_label.weight" and chosen.class_table_transposed:
            value = value.t()
        out[prefix + published] = value.contiguous()
    constants = chosen.constants(net)
    return out | {prefix + name: value for name, value in constants.items()}


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with the prefixes that all names share ("module.", "model.") removed."""
    out = dict(state)
    for prefix in PREFIXES:
        if out and all(name.startswith(prefix) for name in out):
            out = {name.removeprefix(prefix): value for name, value in out.items()}
    return out


def _prepared(config: Config, layout: str) -> tuple[Layout, UNet]:
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; choose from {sorted(LAYOUTS)}")
    chosen = LAYOUTS[layout]
    if not isinstance(config, chosen.families):
        raise ValueError(f"layout {layout!r} does not hold networks of {type(config).__name__}")
    with torch.device("meta"):
        net = net_from_config(config)
    if layout != "edm" and net.map_augment is not None:
        raise ValueError(f"layout {layout!r} has no augmentation labels; set augment_dim=0")
    return chosen, net


def _shaped(value: Tensor, shape: torch.Size, name: str) -> Tensor:
    # Some code bases store 1x1 convolutions over pixels as one-dimensional ones.
    if value.ndim < len(shape) and shape[value.ndim :].numel() == 1:
        value = value.reshape(*value.shape, *[1] * (len(shape) - value.ndim))
    if value.shape != shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; the network has {tuple(shape)}")
    return value


def _hint(names: Mapping[str, str], missing: list[str], left_over: list[str]) -> str:
    destination = {published for name, published in names.items() if "_to." in name}
    if destination and destination <= set(missing):
        return (
            ". The state has no destination embedding: it is a denoiser or a consistency model, "
            "not a trajectory model"
        )
    if not destination and any("_s." in name for name in left_over):
        return ". The state has a destination embedding: its network has destination=True"
    return ""


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"{len(names)} ({shown})" if names else "none"


def _heads(net: UNet) -> dict[str, int]:
    """Number of heads of every qkv tensor, by our name."""
    return {
        f"{name}.qkv.{kind}": module.num_heads
        for name, module in net.named_modules()
        if isinstance(module, ResBlock) and module.num_heads
        for kind in ("weight", "bias")
    }


def _permuted(inner: tuple[int, int, int], order: tuple[int, int, int]) -> Rows:
    """Rows laid out as `inner` sizes (0 is the heads, -1 the head width), reordered by `order`."""

    def permute(value: Tensor, heads: int) -> Tensor:
        width = value.shape[0] // (3 * heads)
        sizes = [{0: heads, -1: width}.get(size, size) for size in inner]
        rest = value.shape[1:]
        axes = (*order, *range(3, 3 + len(rest)))
        return value.reshape(*sizes, *rest).permute(axes).reshape(value.shape)

    return permute


def _same_rows(value: Tensor, heads: int) -> Tensor:
    return value


LAYOUTS = {
    "edm": Layout(
        families=(SongConfig, ADMConfig),
        names=edm_names,
        constants=edm_constants,
        rows_in=_permuted((0, -1, 3), (2, 0, 1)),
        rows_out=_permuted((3, 0, -1), (1, 2, 0)),
        class_table_transposed=False,
    ),
    "adm": Layout((ADMConfig,), adm_names, no_constants, _same_rows, _same_rows, True),
    "adm-legacy": Layout(
        families=(ADMConfig,),
        names=adm_names,
        constants=no_constants,
        rows_in=_permuted((0, 3, -1), (1, 0, 2)),
        rows_out=_permuted((3, 0, -1), (1, 0, 2)),
        class_table_transposed=True,
    ),
}
