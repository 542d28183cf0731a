"""Names of parameters and constants in published state dicts, by our names."""

from __future__ import annotations

import torch
from torch import Tensor

from .configs import ADMConfig, SongConfig
from .layers import filter_matrix
from .levels import levels
from .unet import UNet


def edm_names(net: UNet) -> dict[str, str]:
    """Names in NVlabs/edm and ctm-cifar10, by our names."""
    size = net.img_resolution
    adm = isinstance(net.config, ADMConfig)
    entry = {"skip": "aux_skip", "residual": "aux_residual"}.get(
        getattr(net.config, "encoder", ""), ""
    )
    names = {}
    for name in net.state_dict():
        head, *rest = name.split(".")
        if head == "input_conv":
            new = ".".join([f"enc.{size}x{size}_conv", *rest])
        elif head in ("enc", "dec"):
            new = ".".join([f"{head}.{rest[0]}_{rest[1]}", *rest[2:]])
        elif head == "inputs":
            new = f"enc.{rest[0]}_{entry}.{rest[-1]}"
        elif head == "outputs":
            new = f"out_{rest[1]}.{rest[2]}" if adm else f"dec.{rest[0]}_aux_{rest[1]}.{rest[2]}"
        else:
            new = name
        names[name] = new.replace("_to.", "_s.")
    return names


def edm_constants(net: UNet) -> dict[str, Tensor]:
    """Resampling filters that NVlabs/edm and ctm-cifar10 store, by their names."""
    config = net.config
    taps = config.resample_filter if isinstance(config, SongConfig) else (1, 1)
    kernel = torch.tensor([[filter_matrix(taps)]])
    names = []
    for side, part, name in (("enc", net.enc, "down"), ("dec", net.dec, "up")):
        for size, level in levels(part):
            if name in level:
                names += [f"{side}.{size}_{name}.{layer}" for layer in ("conv0", "skip")]
    kind = getattr(config, "encoder", "")
    names += [f"enc.{s}_aux_{'down' if kind == 'skip' else kind}" for s in net.inputs]
    if isinstance(config, SongConfig):
        names += [f"dec.{size}_aux_up" for size in list(net.outputs)[1:]]
    return {f"{name}.resample_filter": kernel.clone() for name in names}


_ADM_TOP = {
    "map_layer0": "time_embed.0",
    "map_layer1": "time_embed.2",
    "map_layer0_to": "time_embed_s.0",
    "map_layer1_to": "time_embed_s.2",
    "map_label": "label_emb",
    "input_conv": "input_blocks.0.0",
}
_ADM_BLOCK = {
    "norm0": "in_layers.0",
    "conv0": "in_layers.2",
    "affine": "emb_layers.1",
    "affine_to": "emb_layers_s.1",
    "norm1": "out_layers.0",
    "conv1": "out_layers.3",
    "skip": "skip_connection",
}
_ADM_ATTENTION = {"norm2": "norm", "qkv": "qkv", "proj": "proj_out"}
_ADM_OUT = {"norm": "out.0", "conv": "out.2"}


def adm_names(net: UNet) -> dict[str, str]:
    """Names in openai's and sony/ctm's UNetModel, by our names."""
    places = _adm_places(net)
    names = {}
    for name in net.state_dict():
        *path, layer, kind = name.split(".")
        if not path:
            new = _ADM_TOP[layer]
        elif path[0] == "outputs":
            new = _ADM_OUT[layer]
        else:
            block, attention = places[".".join(path)]
            if layer in _ADM_ATTENTION:
                new = f"{attention}.{_ADM_ATTENTION[layer]}"
            else:
                resampling = {"conv": "op" if path[-1] == "down" else "conv"}
                new = f"{block}.{(_ADM_BLOCK | resampling)[layer]}"
        names[name] = f"{new}.{kind}"
    return names


def _adm_places(net: UNet) -> dict[str, tuple[str, str]]:
    """Published places of a block's residual part and of its attention, by our block name."""
    places, index = {}, 1
    for size, level in levels(net.enc):
        for name in level:
            places[f"enc.{size}.{name}"] = (f"input_blocks.{index}.0", f"input_blocks.{index}.1")
            index += 1
    index, inside = -1, 0
    for size, level in levels(net.dec):
        for name, block in level.items():
            if name == "in0":
                place = ("middle_block.0", "middle_block.1")
            elif name == "in1":
                place = (f"middle_block.{2 if level['in0'].num_heads else 1}", "")
            elif name == "up":
                place = (f"output_blocks.{index}.{inside}", "")
            else:
                index += 1
                inside = 2 if block.num_heads else 1
                place = (f"output_blocks.{index}.0", f"output_blocks.{index}.1")
            places[f"dec.{size}.{name}"] = place
    return places


def no_constants(net: UNet) -> dict[str, Tensor]:
    """Nothing: the state consists of parameters."""
    return {}


def own_names(net: UNet) -> dict[str, str]:
    """Our own names."""
    return {name: name for name in net.state_dict()}
