"""Configurations from state dicts with the names of NVlabs/edm and ctm-cifar10."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from .configs import ADMConfig, Config, SongConfig
from .recognised import (
    Assumed,
    Recognised,
    State,
    multiple,
    settled_config,
    shape_of,
)

_BLOCK = re.compile(r"(enc|dec)\.(\d+)x\2_([a-z]+\d*(?:_[a-z]+)?)\.")
_PUBLISHED_SCALES = (16.0, 0.02)  # of Fourier frequencies: EDM's NCSN++, ECT's
_PUBLISHED_TAPS = {2: (1, 1), 4: (1, 3, 3, 1)}  # by length of the filter


def looks_like_edm(state: State) -> bool:
    """Whether the names are those of NVlabs/edm's SongUNet or DhariwalUNet."""
    return "map_layer0.weight" in state and any(
        re.match(r"enc\.\d+x\d+_conv\.weight$", name) for name in state
    )


def recognise_edm(state: State, overrides: dict[str, Any]) -> Recognised:
    """Network of NVlabs/edm, ECT or ctm-cifar10; what it uses is removed from `overrides`.

    Raises:
        ValueError: for names and shapes that do not fit together.
    """
    config: Config
    if "out_conv.weight" in state:
        config, notes = adm_config(state, overrides, min_group=4)
    else:
        config, notes = song_config(state, overrides)
    return Recognised(config, "edm", tuple(notes), _more_rows(state, config))


def _more_rows(state: State, config: Config) -> int | None:
    """Rows of the output layer where it predicts a variance too (iDDPM's wrapper)."""
    size, channels = config.img_resolution, config.img_channels
    layer = f"dec.{size}x{size}_aux_conv" if isinstance(config, SongConfig) else "out_conv"
    rows = shape_of(state, f"{layer}.weight", 4)[0]
    if rows not in (channels, 2 * channels):
        raise ValueError(
            f"the network takes {channels} channels and gives {rows}; need {channels}, or "
            f"{2 * channels} where it predicts a variance too"
        )
    return None if rows == channels else rows


def song_config(state: State, overrides: dict[str, Any]) -> tuple[SongConfig, list[str]]:
    """(configuration, notes) of a SongUNet.

    Raises:
        ValueError: for names and shapes that do not fit together.
    """
    seen, first = _common(state)
    model_channels = first
    noise = shape_of(state, "map_layer0.weight", 2)[1]
    blocks = _blocks(state)
    aux = {name for names in blocks["enc"].values() for name in names}
    outputs = [size for size, names in blocks["dec"].items() if "aux_conv" in names]
    residual, skip = "aux_residual" in aux, "aux_skip" in aux
    seen |= {
        "model_channels": model_channels,
        "channel_mult": _multipliers(state, model_channels),
        "channel_mult_emb": multiple(
            shape_of(state, "map_layer0.weight", 2)[0], model_channels, "channel_mult_emb"
        ),
        "channel_mult_noise": multiple(noise, model_channels, "channel_mult_noise"),
        "embedding": "fourier" if "map_noise.freqs" in state else "positional",
        "encoder": "residual" if residual else "skip" if skip else "standard",
        "decoder": "skip" if len(outputs) > 1 else "standard",
    }
    assumed = {"dropout": Assumed(0.13, "dropout=0.13: not stored; it matters in training only")}
    filters = [value for name, value in state.items() if name.endswith(".resample_filter")]
    known = _taps(filters[0]) if filters else None
    if known:
        seen["resample_filter"] = known
    elif len(seen["channel_mult"]) > 1:
        size = filters[0].shape[-1] if filters else 4 if seen["embedding"] == "fourier" else 2
        if size not in _PUBLISHED_TAPS:
            raise ValueError(f"resampling filters of {size} taps need their values to be read")
        note = "" if filters else f"resample_filter={_PUBLISHED_TAPS[size]}: not stored"
        assumed["resample_filter"] = Assumed(_PUBLISHED_TAPS[size], note)
    if seen["embedding"] == "fourier":
        assumed["fourier_scale"] = _fourier_scale(state["map_noise.freqs"])
    return settled_config(SongConfig, seen, assumed, overrides)


def adm_config(
    state: State, overrides: dict[str, Any], min_group: int
) -> tuple[ADMConfig, list[str]]:
    """(configuration, notes) of a DhariwalUNet; `min_group` unless it is overridden.

    Raises:
        ValueError: for names and shapes that do not fit together.
    """
    seen, _ = _common(state)
    emb, noise = shape_of(state, "map_layer0.weight", 2)
    factor = overrides.get("channel_mult_noise", 1)
    model_channels = multiple(noise, factor, "model_channels")
    convolved = any("_down.conv.weight" in name for name in state)
    seen |= {
        "resampling": "conv" if convolved else "block",
        "channel_mult_noise": factor,
        "model_channels": model_channels,
        "channel_mult": _multipliers(state, model_channels),
        "channel_mult_emb": multiple(emb, model_channels, "channel_mult_emb"),
        "bottleneck_attention": any(
            name.startswith("dec.") and "_in0.qkv." in name for name in state
        ),
    }
    assumed = {
        "min_group": Assumed(min_group),
        "dropout": Assumed(0.10, "dropout=0.1: not stored; it matters in training only"),
    }
    if seen["bottleneck_attention"] or seen["attn_resolutions"]:
        assumed["channels_per_head"] = Assumed(64, "channels_per_head=64: not stored")
    return settled_config(ADMConfig, seen, assumed, overrides)


def _common(state: State) -> tuple[dict[str, Any], int]:
    """Fields that both families have, and the channels after the input convolution."""
    blocks = _blocks(state)["enc"]
    size = max(size for size, names in blocks.items() if "conv" in names)
    first, img_channels = shape_of(state, f"enc.{size}x{size}_conv.weight", 4)[:2]
    sizes = _sizes(state)
    if sizes[0] != size:
        raise ValueError(
            f"the input convolution is at {size} pixels, the first block at {sizes[0]}"
        )
    block = f"enc.{size}x{size}_block0"
    width = shape_of(state, f"{block}.conv0.weight", 4)[0]
    seen = {
        "img_resolution": size,
        "img_channels": img_channels,
        "label_dim": _columns(state, "map_label.weight"),
        "augment_dim": _columns(state, "map_augment.weight"),
        "num_blocks": len([name for name in blocks[size] if name.startswith("block")]),
        "attn_resolutions": tuple(s for s in sizes if _attends(state, f"enc.{s}x{s}_block0")),
        "adaptive_scale": shape_of(state, f"{block}.affine.weight", 2)[0] == 2 * width,
        "destination": "map_layer0_s.weight" in state,
    }
    return seen, first


def _blocks(state: State) -> dict[str, dict[int, set[str]]]:
    """Names of layers and blocks by side and resolution."""
    found: dict[str, dict[int, set[str]]] = {"enc": defaultdict(set), "dec": defaultdict(set)}
    for name in state:
        if match := _BLOCK.match(name):
            side, size, block = match.groups()
            found[side][int(size)].add(block)
    return found


def _sizes(state: State) -> list[int]:
    """Resolutions of the encoder, finest first."""
    encoder = _blocks(state)["enc"]
    sizes = sorted((size for size, names in encoder.items() if "block0" in names), reverse=True)
    if not sizes or sizes != [sizes[0] >> level for level in range(len(sizes))] or not sizes[-1]:
        raise ValueError(
            f"the encoder has resolutions {sizes}; each must be half of the one before"
        )
    return sizes


def _multipliers(state: State, model_channels: int) -> tuple[int, ...]:
    widths = [shape_of(state, f"enc.{s}x{s}_block0.conv0.weight", 4)[0] for s in _sizes(state)]
    return tuple(multiple(width, model_channels, "a channel multiplier") for width in widths)


def _columns(state: State, name: str) -> int:
    return shape_of(state, name, 2)[1] if name in state else 0


def _attends(state: State, block: str) -> bool:
    return f"{block}.qkv.weight" in state


def _taps(kernel: Tensor) -> tuple[int, ...] | None:
    """Integer taps of a stored filter, or None where there are no values to look at."""
    if kernel.is_meta:
        return None
    if kernel.ndim != 4 or not kernel.numel():
        raise ValueError(
            f"a resample_filter has shape {tuple(kernel.shape)}; expected (1, 1, n, n)"
        )
    row = kernel[0, 0].double().sum(0)
    smallest = row.abs()[row != 0].amin() if bool((row != 0).any()) else row.new_ones(())
    taps = row / smallest
    if not bool(torch.isfinite(taps).all()) or bool((taps - taps.round()).abs().max() > 0.01):
        raise ValueError(f"a resample_filter has taps {taps.tolist()}; only integers are supported")
    return tuple(int(tap) for tap in taps.round())


def _fourier_scale(freqs: Tensor) -> Assumed:
    if freqs.is_meta or not freqs.numel():
        return Assumed(_PUBLISHED_SCALES[0])
    # The values are stored; the scale is for networks that are begun anew.
    measured = max(float(freqs.double().square().mean().sqrt()), 1e-9)
    return Assumed(min(_PUBLISHED_SCALES, key=lambda scale: abs(math.log(scale / measured))))
