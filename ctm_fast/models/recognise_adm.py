"""Configurations from state dicts with the names of openai's and sony/ctm's UNetModel."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import Any

from .configs import ADMConfig
from .recognised import (
    Assumed,
    Recognised,
    State,
    multiple,
    settled_config,
    shape_of,
)

_PLACE = re.compile(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.+)")
# Image sizes of the published networks, by the widths of their levels: ImageNet-64; LSUN-256; and
# guided-diffusion's 128, 256 and 512, the last begins with half of its model_channels.
_PUBLISHED_SIZES = {
    (1, 2, 3, 4): 64,
    (1, 1, 2, 3, 4): 128,
    (1, 1, 2, 2, 4, 4): 256,
    (1, 2, 2, 4, 4, 8, 8): 512,
}
_ORDERS = {"new": "adm", "legacy": "adm-legacy"}

Places = dict[int, dict[int, set[str]]]  # what every module of every numbered block contains


def looks_like_adm(state: State) -> bool:
    """Whether the names are those of a whole UNetModel."""
    return all(
        name in state for name in ("time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight")
    )


def recognise_adm(state: State, overrides: dict[str, Any]) -> Recognised:
    """Network of openai, guided-diffusion or sony/ctm; what it uses is removed from `overrides`.

    Besides the fields of `ADMConfig`, `attention_order` ("new" or "legacy") is understood.

    Raises:
        ValueError: for names and shapes that do not fit together, or a network that this library
            does not have.
    """
    inputs, outputs = _places(state)
    emb, noise = shape_of(state, "time_embed.0.weight", 2)
    img_channels, rows = _img_channels(state, overrides)
    ups = [i for i, modules in sorted(outputs.items()) if _up(modules)]
    num_blocks = ups[0] if ups else len(outputs) - 1
    levels = 1 + len(ups)
    firsts = [1 + level * (num_blocks + 1) for level in range(levels)]
    if len(inputs) != levels * (num_blocks + 1) or num_blocks < 1:
        raise ValueError(
            f"{len(inputs)} input blocks do not divide into {levels} resolutions of {num_blocks} "
            "blocks; networks that resample without weights are not supported"
        )
    widths = [shape_of(state, f"input_blocks.{i}.0.in_layers.2.weight", 4)[0] for i in firsts]
    # Published multipliers such as 0.5 are whole multiples of a narrower unit.
    whole = not any(width % noise for width in widths)
    model_channels = noise if whole else math.gcd(*widths, noise)
    mult = tuple(width // model_channels for width in widths)
    rows_told = shape_of(state, "input_blocks.1.0.emb_layers.1.weight", 2)[0]
    attended = [level for level, i in enumerate(firsts) if "qkv.weight" in inputs[i].get(1, ())]
    classes = shape_of(state, "label_emb.weight", 2)[0] if "label_emb.weight" in state else 0
    convolved = any("op.weight" in modules.get(0, ()) for modules in inputs.values())
    notes: list[str] = []
    seen = {
        "img_channels": img_channels,
        "label_dim": classes,
        "augment_dim": 0,
        "model_channels": model_channels,
        "channel_mult": mult,
        "channel_mult_noise": noise // model_channels,
        "channel_mult_emb": multiple(emb, model_channels, "channel_mult_emb"),
        "num_blocks": num_blocks,
        "bottleneck_attention": "middle_block.1.qkv.weight" in state,
        "adaptive_scale": rows_told == 2 * widths[0],
        "min_group": 1,
        "destination": "time_embed_s.0.weight" in state,
        "resampling": "conv" if convolved else "block",
    }
    size = _img_resolution(mult, overrides, notes)
    seen["attn_resolutions"] = tuple(size >> level for level in attended)
    assumed = {
        "img_resolution": Assumed(size),
        "dropout": Assumed(
            0.0 if seen["destination"] else 0.1, "dropout: not stored; it matters in training only"
        ),
    }
    layout = "adm"
    if attended or seen["bottleneck_attention"]:
        assumed["channels_per_head"] = (
            Assumed(0)
            if "num_heads" in overrides
            else Assumed(64, "channels_per_head=64: not stored")
        )
        layout = _layout(state, rows, overrides, notes)
    overrides.pop("attention_order", None)
    config, assumptions = settled_config(ADMConfig, seen, assumed, overrides)
    return Recognised(config, layout, (*notes, *assumptions), rows)


def _places(state: State) -> tuple[Places, Places]:
    found: dict[str, Places] = {
        side: defaultdict(lambda: defaultdict(set)) for side in ("input", "output")
    }
    for name in state:
        if match := _PLACE.match(name):
            side, block, module, rest = match.groups()
            found[side][int(block)][int(module)].add(rest)
    for side, blocks in found.items():
        if sorted(blocks) != list(range(len(blocks))):
            raise ValueError(
                f"the {side} blocks have gaps in their numbers; networks that resample without "
                "weights are not supported"
            )
    if not found["output"]:
        raise ValueError("the state has no output_blocks")
    return found["input"], found["output"]


def _up(modules: dict[int, set[str]]) -> bool:
    """Whether a block of the decoder ends with a resampling."""
    rest = [names for index, names in modules.items() if index > 0]
    return any("in_layers.0.weight" in names or "conv.weight" in names for names in rest)


def _img_channels(state: State, overrides: dict[str, Any]) -> tuple[int, int | None]:
    """Channels of an image, and the rows of the output layer where those are more."""
    channels = shape_of(state, "input_blocks.0.0.weight", 4)[1]
    rows = shape_of(state, "out.2.weight", 4)[0]
    if channels == 6 and rows in (3, 6) and "img_channels" not in overrides:
        raise ValueError(
            "the network takes 6 channels, as a super-resolution network does (an image and its "
            "condition), which is not supported; if images have 6 channels, pass img_channels=6"
        )
    if rows not in (channels, 2 * channels):
        raise ValueError(
            f"the network takes {channels} channels and gives {rows}; need {channels}, or "
            f"{2 * channels} where it predicts a variance too"
        )
    return channels, None if rows == channels else rows


def _img_resolution(mult: tuple[int, ...], overrides: dict[str, Any], notes: list[str]) -> int:
    if "img_resolution" in overrides:
        return int(overrides["img_resolution"])
    size = _PUBLISHED_SIZES.get(mult, max(64, 2 ** (len(mult) - 1)))
    notes.append(f"img_resolution={size}: not stored; taken from the published networks")
    return size


def _layout(state: State, rows: int | None, overrides: dict[str, Any], notes: list[str]) -> str:
    """ "adm" or "adm-legacy", by the order of the attention's rows."""
    if "attention_order" in overrides:
        order = overrides["attention_order"]
        if order not in _ORDERS:
            raise ValueError(f"unknown attention_order {order!r}; choose from {sorted(_ORDERS)}")
        return _ORDERS[order]
    # guided-diffusion stores one-dimensional convolutions; its successors do not.
    flat = any(v.ndim == 3 for name, v in state.items() if name.endswith(".qkv.weight"))
    order = "legacy" if flat or rows is not None else "new"
    source = "guided-diffusion's networks" if order == "legacy" else "consistency models"
    notes.append(f"attention_order={order!r}: not stored; that of {source}")
    return _ORDERS[order]
