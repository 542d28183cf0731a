"""Names of parameters in diffusers' UNet2DModel, by our names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .levels import levels
from .unet import UNet

_TOP = {
    "map_layer0": "time_embedding.linear_1",
    "map_layer1": "time_embedding.linear_2",
    "map_label": "class_embedding",
    "input_conv": "conv_in",
}
_BLOCK = {
    "norm0": "norm1",
    "conv0": "conv1",
    "affine": "time_emb_proj",
    "norm1": "norm2",
    "conv1": "conv2",
    "skip": "conv_shortcut",
    "conv": "conv",  # of a layer that resamples
}
_ATTENTION = {
    "norm2": ("group_norm",),
    "qkv": ("to_q", "to_k", "to_v"),
    "proj": ("to_out.0",),
}
_OUT = {"norm": "conv_norm_out", "conv": "conv_out"}
_OLD = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}


def diffusers_names(net: UNet) -> dict[str, tuple[str, ...]]:
    """Names in diffusers by our names, more than one where its parts are tensors of their own."""
    places = _places(net)
    names = {}
    for name in net.state_dict():
        *path, layer, kind = name.split(".")
        if not path:
            # Names without a place (of a destination) are refused by the layout.
            parts: tuple[str, ...] = (_TOP.get(layer, layer),)
        elif path[0] == "outputs":
            parts = (_OUT[layer],)
        else:
            block, attention = places[".".join(path)]
            if layer in _ATTENTION:
                parts = tuple(f"{attention}.{part}" for part in _ATTENTION[layer])
            else:
                parts = (f"{block}.{_BLOCK.get(layer, layer)}",)
        names[name] = tuple(f"{part}.{kind}" for part in parts)
    return names


def current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with the attention layers of old checkpoints under the names of today.

    Raises:
        ValueError: if it holds a tensor under both names.
    """
    new = {}
    for name, value in state.items():
        *path, kind = name.split(".")
        if "attentions" in path and path[-1] in _OLD:
            name = ".".join([*path[:-1], _OLD[path[-1]], kind])
        if name in new:
            raise ValueError(f"{name} is there twice, under its old and under its new name")
        new[name] = value
    return new


def _places(net: UNet) -> dict[str, tuple[str, str]]:
    """diffusers' places of a block's residual part and of its attention, by our block name."""
    places = {}
    for i, (size, level) in enumerate(levels(net.enc)):
        for name in level:
            if name == "down":
                place = (f"down_blocks.{i - 1}.downsamplers.0", "")
            else:
                place = _inside(f"down_blocks.{i}", name.removeprefix("block"))
            places[f"enc.{size}.{name}"] = place
    for i, (size, level) in enumerate(levels(net.dec)):
        for name in level:
            if name == "up":
                place = (f"up_blocks.{i - 1}.upsamplers.0", "")
            elif name.startswith("in"):
                place = _inside("mid_block", name.removeprefix("in"))
            else:
                place = _inside(f"up_blocks.{i}", name.removeprefix("block"))
            places[f"dec.{size}.{name}"] = place
    return places


def _inside(side: str, index: str) -> tuple[str, str]:
    return f"{side}.resnets.{index}", f"{side}.attentions.{index}"
