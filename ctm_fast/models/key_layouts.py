"""State dicts of published networks to ours and back: names, and the order of attention rows.

Layouts, each with or without a destination embedding:

- "edm": NVlabs/edm's SongUNet and DhariwalUNet, and ctm-cifar10's SongUNet. Rows of qkv are
  (head, head_dim, {q, k, v}); constant `resample_filter` tensors are part of the state.
- "adm": openai's and sony/ctm's UNetModel. Rows of qkv are ({q, k, v}, head, head_dim), as ours.
- "adm-legacy": the same names with rows (head, {q, k, v}, head_dim), which the legacy attention of
  openai/guided-diffusion and ctm-cifar10 reads.
- "diffusers": diffusers' UNet2DModel, without a destination. q, k and v are three matrices.
- "own": this library's names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import ResBlock
from .configs import ADMConfig, Config, SongConfig
from .diffusers_names import current_names, diffusers_names
from .presets import net_from_config
from .published_names import adm_names, edm_constants, edm_names, no_constants, own_names
from .unet import UNet

Rows = Callable[[Tensor, int], Tensor]
Names = Mapping[str, str] | Mapping[str, tuple[str, ...]]
State = Mapping[str, Tensor]

# What wrappers put before every name.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


@dataclass(frozen=True)
class Layout:
    """How one code base stores the networks."""

    families: tuple[type[Config], ...]  # configurations that it can hold
    # Our name -> published name, or the names of the parts whose rows ours joins, in their order.
    names: Callable[[UNet], Names]
    constants: Callable[[UNet], dict[str, Tensor]]  # published tensors that follow from the config
    rows_in: Rows  # published qkv rows -> ours
    rows_out: Rows  # our qkv rows -> published
    class_table_transposed: bool  # (classes, channels) instead of our (channels, classes)
    without: tuple[str, ...]  # fields of the configuration for which it has no place
    matrices: bool = False  # stores the 1x1 convolutions of the attention as matrices
    current: Callable[[State], dict[str, Tensor]] = dict  # older spellings of names -> these


def from_published(state: Mapping[str, Tensor], config: Config, layout: str) -> dict[str, Tensor]:
    """Our state dict from a published one.

    Args:
        state: published names and tensors; a common prefix such as "model." is ignored.
        config: the network that the tensors belong to.
        layout: one of `LAYOUTS`.

    Raises:
        ValueError: for an unknown layout, one that cannot hold such a network, missing or left
            over names, wrong shapes, or another resampling filter than the configuration's.
    """
    chosen, net = _prepared(config, layout)
    state = chosen.current(without_prefix(state))
    own = net.state_dict()
    names, constants = _parts(chosen.names(net)), chosen.constants(net)
    published = {part for parts in names.values() for part in parts}
    missing = sorted(published - set(state))
    left_over = sorted(set(state) - published - set(constants))
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
    for name, parts in names.items():
        value = _joined(state, parts)
        if name in heads:
            value = _shaped(value, own[name].shape, ", ".join(parts))
            value = chosen.rows_in(value, heads[name])
        elif name == "map_label.weight" and chosen.class_table_transposed:
            value = value.t()
        native[name] = _shaped(value, own[name].shape, ", ".join(parts))
    return native


def to_published(
    state: Mapping[str, Tensor], config: Config, layout: str, prefix: str = ""
) -> dict[str, Tensor]:
    """Published state dict from ours, each tensor contiguous in its usual order.

    Args:
        state: our names and tensors, all of them.
        config: the network that the tensors belong to.
        layout: one of `LAYOUTS`.
        prefix: put before every published name, for example "model.".

    Raises:
        ValueError: for an unknown layout, one that cannot hold such a network, or missing or left
            over names.
    """
    chosen, net = _prepared(config, layout)
    names = _parts(chosen.names(net))
    missing, left_over = sorted(set(names) - set(state)), sorted(set(state) - set(names))
    if missing or left_over:
        raise ValueError(
            f"not the state of this network: missing {_few(missing)}, left over {_few(left_over)}"
        )
    heads = _heads(net)
    out = {}
    for name, parts in names.items():
        value = state[name]
        if name in heads:
            value = chosen.rows_out(value, heads[name])
        elif name == "map_label.weight" and chosen.class_table_transposed:
            value = value.t()
        if chosen.matrices and name.endswith((".qkv.weight", ".proj.weight")):
            value = value.flatten(1)
        for part, rows in zip(parts, value.chunk(len(parts)), strict=True):
            out[prefix + part] = rows.contiguous()
    constants = chosen.constants(net)
    return out | {prefix + name: value for name, value in constants.items()}


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without those of `PREFIXES`, in any order, that all names share."""
    out = dict(state)
    while shared := [p for p in PREFIXES if out and all(name.startswith(p) for name in out)]:
        out = {name.removeprefix(shared[0]): value for name, value in out.items()}
    return out


def _prepared(config: Config, layout: str) -> tuple[Layout, UNet]:
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; choose from {sorted(LAYOUTS)}")
    chosen = LAYOUTS[layout]
    if not isinstance(config, chosen.families):
        raise ValueError(f"layout {layout!r} does not hold networks of {type(config).__name__}")
    with torch.device("meta"):
        net = net_from_config(config)
    for field in chosen.without:
        value, usual = getattr(config, field, None), _WITHOUT[field][1]
        if value not in (None, usual):
            raise ValueError(
                f"layout {layout!r} has no {_WITHOUT[field][0]}; set {field}={usual!r}"
            )
    return chosen, net


def _parts(names: Names) -> dict[str, tuple[str, ...]]:
    return {ours: (new,) if isinstance(new, str) else new for ours, new in names.items()}


def _joined(state: State, parts: tuple[str, ...]) -> Tensor:
    """The rows of the parts one after the other."""
    if len(parts) == 1:
        return state[parts[0]]
    shapes = [tuple(state[part].shape) for part in parts]
    if len(set(shapes)) > 1 or not shapes[0]:
        raise ValueError(f"{', '.join(parts)} have shapes {shapes}; they must be equal")
    return torch.cat([state[part] for part in parts])


def _shaped(value: Tensor, shape: torch.Size, name: str) -> Tensor:
    # Some code bases store 1x1 convolutions over pixels as one-dimensional ones.
    if value.ndim < len(shape) and shape[value.ndim :].numel() == 1:
        value = value.reshape(*value.shape, *[1] * (len(shape) - value.ndim))
    if value.shape != shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; the network has {tuple(shape)}")
    return value


def _hint(names: dict[str, tuple[str, ...]], missing: list[str], left_over: list[str]) -> str:
    destination = {part for name, parts in names.items() if "_to." in name for part in parts}
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


# What a layout may lack, by the configuration's field, and the value for which nothing is needed.
_WITHOUT: dict[str, tuple[str, object]] = {
    "augment_dim": ("augmentation labels", 0),
    "destination": ("destination embedding", False),
    "resampling": ("convolutions that resample", "block"),
}

LAYOUTS = {
    "edm": Layout(
        families=(SongConfig, ADMConfig),
        names=edm_names,
        constants=edm_constants,
        rows_in=_permuted((0, -1, 3), (2, 0, 1)),
        rows_out=_permuted((3, 0, -1), (1, 2, 0)),
        class_table_transposed=False,
        without=("resampling",),
    ),
    "adm": Layout(
        families=(ADMConfig,),
        names=adm_names,
        constants=no_constants,
        rows_in=_same_rows,
        rows_out=_same_rows,
        class_table_transposed=True,
        without=("augment_dim",),
    ),
    "adm-legacy": Layout(
        families=(ADMConfig,),
        names=adm_names,
        constants=no_constants,
        rows_in=_permuted((0, 3, -1), (1, 0, 2)),
        rows_out=_permuted((3, 0, -1), (1, 0, 2)),
        class_table_transposed=True,
        without=("augment_dim",),
    ),
    "diffusers": Layout(
        families=(ADMConfig,),
        names=diffusers_names,
        constants=no_constants,
        rows_in=_same_rows,
        rows_out=_same_rows,
        class_table_transposed=True,
        without=("augment_dim", "destination"),
        matrices=True,
        current=current_names,
    ),
    "own": Layout(
        families=(SongConfig, ADMConfig),
        names=own_names,
        constants=no_constants,
        rows_in=_same_rows,
        rows_out=_same_rows,
        class_table_transposed=False,
        without=(),
    ),
}
