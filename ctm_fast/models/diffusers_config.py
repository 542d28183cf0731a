"""Configurations from the options of diffusers' UNet2DModel; diffusers itself is not needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .configs import ADMConfig
from .recognised import Recognised

CLASS_NAMES = ("UNet2DModel",)
_CHANNELS, _BLOCKS, _LEVELS = 1 << 16, 256, 12  # more of these is no network of images

# What UNet2DModel does where an option is absent.
_DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
# The only values that are supported, of options that have others.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "freq_shift": (0, 1),
    "flip_sin_to_cos": (True, False),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_padding": (0, 1),
    "downsample_type": ("conv", "resnet"),
    "upsample_type": ("conv", "resnet"),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "add_attention": (True, False),
    "class_embed_type": (None,),
}
_RESAMPLING = {"conv": "conv", "resnet": "block"}
# Whether a level's blocks have attention, and how it resamples; None: as another option says.
_DOWN: dict[str, tuple[bool, str | None]] = {
    "DownBlock2D": (False, "conv"),
    "AttnDownBlock2D": (True, None),
    "ResnetDownsampleBlock2D": (False, "block"),
}
_UP: dict[str, tuple[bool, str | None]] = {
    "UpBlock2D": (False, "conv"),
    "AttnUpBlock2D": (True, None),
    "ResnetUpsampleBlock2D": (False, "block"),
}


def from_options(options: Mapping[str, Any], img_resolution: int | None = None) -> Recognised:
    """Configuration and key layout of a UNet2DModel with these options.

    Args:
        options: as in its config.json; names that begin with "_" are not looked at.
        img_resolution: instead of `sample_size`.

    Raises:
        ValueError: for options, or values of them, that this library's network does not have, and
            for values that do not fit together; each is named.
    """
    chosen = _complete(options)
    widths = _integers(chosen, "block_out_channels", _CHANNELS)
    count = len(widths)
    if count > _LEVELS:
        raise ValueError(f"block_out_channels has {count} entries; at most {_LEVELS} are supported")
    down, up = (_levels(chosen, side, count) for side in ("down", "up"))
    attended = [attends for attends, _ in down]
    if attended != [attends for attends, _ in reversed(up)]:
        raise ValueError(
            f"down_block_types {list(chosen['down_block_types'])} and up_block_types "
            f"{list(chosen['up_block_types'])} have attention at different resolutions, which is "
            "not supported"
        )
    ways = {way for _, way in (*down[:-1], *up[:-1])}
    if len(ways) > 1:
        raise ValueError(
            "some levels resample by convolutions and some by residual blocks, which is not "
            "supported; see down_block_types, up_block_types, downsample_type and upsample_type"
        )
    told = chosen["time_embedding_dim"] and _integer(chosen, "time_embedding_dim", 4 * _CHANNELS)
    told = told or 4 * widths[0]
    unit = math.gcd(*widths, told)
    channels = _integer(chosen, "in_channels", 4096)
    rows = _integer(chosen, "out_channels", 8192)
    if rows not in (channels, 2 * channels):
        raise ValueError(
            f"out_channels={rows} is not supported for in_channels={channels}; need as many, or "
            "twice as many where the network predicts a variance too"
        )
    size = _size(chosen["sample_size"] if img_resolution is None else img_resolution)
    classes = chosen["num_class_embeds"]
    everywhere = {width for width, attends in zip(widths, attended, strict=True) if attends}
    everywhere |= {widths[-1]} if chosen["add_attention"] else set()
    config = ADMConfig(
        img_resolution=size,
        img_channels=channels,
        label_dim=0 if classes is None else _integer(chosen, "num_class_embeds", 1 << 20),
        model_channels=unit,
        channel_mult=tuple(width // unit for width in widths),
        channel_mult_emb=told // unit,
        channel_mult_noise=widths[0] // unit,
        num_blocks=_integer(chosen, "layers_per_block", _BLOCKS),
        attn_resolutions=tuple(size >> level for level in range(count) if attended[level]),
        bottleneck_attention=chosen["add_attention"],
        channels_per_head=_head_width(chosen, everywhere),
        max_groups=_groups(chosen, widths),
        eps=_number(chosen, "norm_eps"),
        adaptive_scale=chosen["resnet_time_scale_shift"] == "scale_shift",
        dropout=_number(chosen, "dropout"),
        resampling=next(iter(ways), "block"),
        conv_padding="after" if "conv" in ways and not chosen["downsample_padding"] else "both",
        sin_first=not chosen["flip_sin_to_cos"],
        endpoint=chosen["freq_shift"] == 1,
    )
    return Recognised(config, "diffusers", (), None if rows == channels else rows)


def from_module(module: Any, img_resolution: int | None = None) -> Recognised | None:
    """`from_options` of a live UNet2DModel; None for any other object.

    Args:
        module: anything.
        img_resolution: instead of its `sample_size`.

    Raises:
        ValueError: as `from_options`.
    """
    names = {cls.__name__ for cls in type(module).__mro__}
    config = getattr(module, "config", None)
    if names.isdisjoint(CLASS_NAMES) or not isinstance(config, Mapping):
        return None
    return from_options(config, img_resolution)


def _complete(options: Mapping[str, Any]) -> dict[str, Any]:
    """All options, those that are absent with their defaults."""
    given = {name: value for name, value in options.items() if not name.startswith("_")}
    # What a later version adds is off where it is None or False.
    unknown = [n for n in given if n not in _DEFAULTS and given[n] not in (None, False)]
    if unknown:
        raise ValueError(f"unknown options {sorted(unknown)} of UNet2DModel")
    chosen = {**_DEFAULTS, **given}
    for name, allowed in _SUPPORTED.items():
        value = chosen[name]
        if not any(value == one and type(value) in _types(one) for one in allowed):
            raise ValueError(f"{name}={value!r} is not supported; supported are {allowed}")
    return chosen


def _types(value: Any) -> tuple[type, ...]:
    return (int, float) if type(value) is int else (type(value),)


def _levels(chosen: Mapping[str, Any], side: str, count: int) -> list[tuple[bool, str]]:
    """(attention, resampling) of every level, in the order in which they run."""
    name, table = f"{side}_block_types", _DOWN if side == "down" else _UP
    types = chosen[name]
    if not isinstance(types, Sequence) or isinstance(types, str) or len(types) != count:
        raise ValueError(f"{name}={types!r} must name {count} blocks, as block_out_channels does")
    found = []
    for given in types:
        block = given.removeprefix("UNetRes") if isinstance(given, str) else given
        if not isinstance(block, str) or block not in table:
            raise ValueError(f"{name}: {given!r} is not supported; supported are {sorted(table)}")
        attends, way = table[block]
        found.append((attends, way or _RESAMPLING[chosen[f"{side}sample_type"]]))
    return found


def _head_width(chosen: Mapping[str, Any], widths: set[int]) -> int:
    if chosen["attention_head_dim"] is None:
        return 0
    head = _integer(chosen, "attention_head_dim", _CHANNELS)
    if bad := sorted(width for width in widths if width % head):
        raise ValueError(f"attention_head_dim={head} does not divide {bad} channels")
    return head


def _groups(chosen: Mapping[str, Any], widths: Sequence[int]) -> int:
    groups = _integer(chosen, "norm_num_groups", _CHANNELS)
    if bad := [width for width in widths if width % groups]:
        raise ValueError(f"norm_num_groups={groups} does not divide {bad} channels")
    shift = chosen["resnet_time_scale_shift"]
    own = chosen["attn_norm_num_groups"] or (groups if shift == "default" else None)
    if chosen["add_attention"] and own != groups:
        raise ValueError(
            f"attn_norm_num_groups={chosen['attn_norm_num_groups']!r} with "
            f"resnet_time_scale_shift={shift!r} is not supported; set it to norm_num_groups, "
            f"{groups}"
        )
    return groups


def _size(value: Any) -> int:
    sides = list(value) if isinstance(value, list | tuple) else [value]
    if not sides or any(type(side) is not int for side in sides) or len(set(sides)) > 1:
        raise ValueError(
            f"sample_size={value!r} is not supported; need one number of pixels, or pass "
            "img_resolution"
        )
    if not 0 < sides[0] <= _CHANNELS:
        raise ValueError(f"sample_size={value!r} must be in [1, {_CHANNELS}]")
    return int(sides[0])


def _integer(chosen: Mapping[str, Any], name: str, most: int) -> int:
    value = chosen[name]
    if type(value) is not int or not 0 < value <= most:
        raise ValueError(f"{name} must be an integer in [1, {most}], got {value!r}")
    return value


def _integers(chosen: Mapping[str, Any], name: str, most: int) -> list[int]:
    values = chosen[name]
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(f"{name} must be a list of integers, got {values!r}")
    return [_integer({name: value}, name, most) for value in values]


def _number(chosen: Mapping[str, Any], name: str) -> float:
    value = chosen[name]
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)
