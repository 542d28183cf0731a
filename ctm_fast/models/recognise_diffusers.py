"""Configurations from bare state dicts with the names of diffusers' UNet2DModel."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from .configs import ADMConfig
from .diffusers_config import from_options
from .diffusers_names import current_names
from .recognised import Assumed, Recognised, State, settled_config, shape_of

# Image sizes of published networks, by the widths of the levels relative to the first.
_SIZES = {(1, 2, 3, 4): 64, (1, 1, 2, 2, 4, 4): 256, (1, 2, 2, 2): 32}
# What openai's converted consistency models have and the state does not show.
_OPENAI = {
    "attention_head_dim": 64,
    "norm_eps": 1e-5,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
}
# The same of google's DDPMs.
_DDPM = {
    "attention_head_dim": None,
    "norm_eps": 1e-6,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "downsample_padding": 0,
}
_NOT_STORED = (
    "channels_per_head",
    "num_heads",
    "max_groups",
    "eps",
    "sin_first",
    "endpoint",
    "conv_padding",
)
_RESNET = {"down": "ResnetDownsampleBlock2D", "up": "ResnetUpsampleBlock2D"}


def looks_like_diffusers(state: State) -> bool:
    """Whether the names are those of a UNet2DModel."""
    names = ("conv_in.weight", "time_embedding.linear_1.weight", "conv_out.weight")
    return all(name in state for name in names) and any(
        name.startswith("down_blocks.0.resnets.") for name in state
    )


def recognise_diffusers(state: State, overrides: dict[str, Any]) -> Recognised:
    """Network of diffusers; fields of `ADMConfig` are removed from `overrides`.

    Raises:
        ValueError: for names and shapes that do not fit together, or a network that this library
            does not have.
    """
    if any("transformer_blocks" in name or "encoder_hid" in name for name in state):
        raise ValueError("a UNet2DConditionModel (guided by text) of diffusers is not supported")
    state = current_names(state)
    levels = _count(state, r"down_blocks\.(\d+)\.")
    blocks = _count(state, r"down_blocks\.0\.resnets\.(\d+)\.")
    firsts = [f"down_blocks.{i}.resnets.0" for i in range(levels)]
    widths = [shape_of(state, f"{first}.conv1.weight", 4)[0] for first in firsts]
    attended = [f"down_blocks.{i}.attentions.0.to_q.weight" in state for i in range(levels)]
    told = shape_of(state, "time_embedding.linear_1.weight", 2)[0]
    shifts = shape_of(state, f"{firsts[0]}.time_emb_proj.weight", 2)[0] == 2 * widths[0]
    convolves = "down_blocks.0.downsamplers.0.conv.weight" in state
    classes = "class_embedding.weight" in state
    groups = overrides.get("max_groups", 32)
    if "max_groups" not in overrides and any(width % groups for width in widths):
        raise ValueError(
            f"{widths} channels do not divide into {groups} groups, as published networks' do; "
            "pass max_groups"
        )
    published = _OPENAI if shifts and not convolves else _DDPM
    down = {True: "AttnDownBlock2D", False: "DownBlock2D" if convolves else _RESNET["down"]}
    up = {True: "AttnUpBlock2D", False: "UpBlock2D" if convolves else _RESNET["up"]}
    sampling = "conv" if convolves else "resnet"
    options: dict[str, Any] = {
        "in_channels": shape_of(state, "conv_in.weight", 4)[1],
        "out_channels": shape_of(state, "conv_out.weight", 4)[0],
        "time_embedding_dim": told,
        "block_out_channels": widths,
        "layers_per_block": blocks,
        "down_block_types": [down[attends] for attends in attended],
        "up_block_types": [up[attends] for attends in reversed(attended)],
        "downsample_type": sampling,
        "upsample_type": sampling,
        "resnet_time_scale_shift": "scale_shift" if shifts else "default",
        "add_attention": "mid_block.attentions.0.to_q.weight" in state,
        "num_class_embeds": shape_of(state, "class_embedding.weight", 2)[0] if classes else None,
        "norm_num_groups": groups,
        "attn_norm_num_groups": groups,
        **published,
    }
    head = options["attention_head_dim"]
    asked = "channels_per_head" in overrides or "num_heads" in overrides
    if asked or any(width % (head or 1) for width in widths):
        options["attention_head_dim"] = None  # one head
    size, notes = _size(widths, overrides)
    found = from_options(options, size)
    seen = dataclasses.asdict(found.config)
    assumed = {name: Assumed(seen.pop(name)) for name in _NOT_STORED}
    unsaid = {"dropout": 0.0, "label_dropout": 0.0}
    for name, value in unsaid.items():
        del seen[name]
        assumed[name] = Assumed(value)
    source = "openai's consistency models" if published is _OPENAI else "google's DDPMs"
    kept = [name for name in _NOT_STORED if name not in overrides]
    said = ", ".join(f"{name}={assumed[name].value}" for name in kept)
    if said:
        notes.append(f"{said}: not stored; those of {source} (a config.json would say)")
    config, _ = settled_config(ADMConfig, seen, assumed, overrides)
    return Recognised(config, "diffusers", tuple(notes), found.output_rows)


def _count(state: State, pattern: str) -> int:
    """One more than the largest number in the names that match.

    Raises:
        ValueError: if there is none, or numbers are left out.
    """
    found = {int(match[1]) for name in state if (match := re.match(pattern, name))}
    if not found or found != set(range(len(found))):
        raise ValueError(f"the state has no whole sequence of names {pattern!r}")
    return len(found)


def _size(widths: list[int], overrides: dict[str, Any]) -> tuple[int, list[str]]:
    if "img_resolution" in overrides:
        return int(overrides["img_resolution"]), []
    mult = tuple(width // widths[0] for width in widths)
    size = _SIZES.get(mult, max(32, 2 ** (len(widths) - 1)))
    return size, [f"img_resolution={size}: not stored; taken from the published networks"]
