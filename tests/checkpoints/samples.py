"""A tiny model in every format of `FORMATS`, as its code base writes it."""

from __future__ import annotations

import json
import pickle
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_file
from torch import Tensor

from ctm_fast.checkpoints import save
from ctm_fast.checkpoints.loading import FORMATS
from ctm_fast.denoiser import Denoiser
from ctm_fast.models import ADMConfig, SongConfig, UNet, net_from_config
from ctm_fast.models.key_layouts import to_published

SONG = SongConfig(
    img_resolution=8,
    img_channels=1,
    model_channels=8,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(4,),
)
ADM = ADMConfig(
    img_resolution=8,
    label_dim=3,
    model_channels=32,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(4,),
    channels_per_head=64,
)
_TO = {"destination": True}


@dataclass(frozen=True)
class Sample:
    """A model on disk."""

    path: Path
    net: UNet  # what loading has to give
    overrides: dict[str, Any] = field(default_factory=dict)  # what its content does not say


def make(format: str, folder: Path) -> Sample:
    """Writes the sample of a format into a folder."""
    return _MAKERS[format](folder)


def network(config: SongConfig | ADMConfig, **changes: Any) -> UNet:
    """Network in eval mode, with weights that are all drawn."""
    net = net_from_config(type(config)(**{**vars(config), **changes}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 8)
    return net.eval()


def published(net: UNet, layout: str, prefix: str = "") -> dict[str, Tensor]:
    """The network's state under another code base's names."""
    return to_published(net.state_dict(), net.config, layout, prefix)


def edm_pickle(net: UNet, kwargs: Mapping[str, Any], wrapper: str = "EDMPrecond") -> bytes:
    """What NVlabs/edm's training script writes: classes by name, source text and attributes."""
    name = "SongUNet" if isinstance(net.config, SongConfig) else "DhariwalUNet"
    inner = _tree(published(net, "edm"), name, {"_init_args": (), "_init_kwargs": dict(kwargs)})
    # Attributes that the wrapper's constructor stores.
    stored = {"sigma_min": 0.0, "sigma_max": float("inf"), "sigma_data": 0.5, "use_fp16": False}
    outer = _Persistent(wrapper, {**_modules({"model": inner}), **stored})
    home = types.ModuleType("torch_utils.persistence")
    home._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    parents = {"torch_utils": types.ModuleType("torch_utils"), "torch_utils.persistence": home}
    with mock.patch.dict(sys.modules, parents):
        return pickle.dumps({"ema": outer, "loss_fn": None, "dataset_kwargs": {"path": "x.zip"}})


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> Any:
    raise AssertionError("code of the pickle was run")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


@dataclass
class _Persistent:
    class_name: str
    state: dict[str, Any]

    def __reduce__(self) -> Any:
        meta = {"type": "class", "version": 6, "module_src": "raise SystemExit", **vars(self)}
        return _reconstruct_persistent_obj, (meta,)


def _modules(children: Mapping[str, Any]) -> dict[str, Any]:
    return {"training": False, "_parameters": {}, "_buffers": {}, "_modules": dict(children)}


def _tree(state: Mapping[str, Tensor], name: str, extra: dict[str, Any]) -> _Persistent:
    """The state dict as modules inside modules."""
    node = _modules({})
    inside: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        first, _, rest = key.partition(".")
        if rest:
            inside.setdefault(first, {})[rest] = value
        elif first in ("resample_filter", "freqs"):
            node["_buffers"][first] = value
        else:
            node["_parameters"][first] = torch.nn.Parameter(value)
    node["_modules"] = {key: _tree(value, "UNetBlock", {}) for key, value in inside.items()}
    return _Persistent(name, {**node, **extra})


def _native(folder: Path) -> Sample:
    net = network(SONG, **_TO)
    return Sample(save(Denoiser(net), folder / "native.safetensors", step=3), net)


def _edm(folder: Path) -> Sample:
    net, config = network(SONG), SONG
    names = ("img_resolution", "model_channels", "channel_mult", "num_blocks", "attn_resolutions")
    kwargs = {name: getattr(config, name) for name in names}
    path = folder / "network-snapshot-000100.pkl"
    path.write_bytes(edm_pickle(net, {**kwargs, "in_channels": 1, "out_channels": 1}))
    return Sample(path, net, {"dropout": SONG.dropout})


def _torch(folder: Path, name: str, state: Mapping[str, Tensor]) -> Path:
    torch.save(dict(state), folder / name)
    return folder / name


def _ctm(folder: Path) -> Sample:
    net = network(ADM, **_TO)
    path = _torch(folder, "ema_0.999_049000.pt", published(net, "adm"))
    return Sample(path, net, {"img_resolution": 8})


def _ctm_cifar10(folder: Path) -> Sample:
    net = network(SONG, **_TO)
    path = _torch(folder, "ema_0.9999_100000.pt", published(net, "edm", "model."))
    return Sample(path, net, {"img_resolution": 8})


def _openai(folder: Path) -> Sample:
    net = network(ADM)
    path = _torch(folder, "model.pt", published(net, "adm"))
    return Sample(path, net, {"img_resolution": 8, "kind": "consistency"})


def _state_dict(folder: Path) -> Sample:
    net = network(SONG)
    save_file(published(net, "edm"), folder / "weights.safetensors")
    return Sample(folder / "weights.safetensors", net, {"img_resolution": 8})


def _diffusers(folder: Path) -> Sample:
    net = network(ADM)
    root = folder / "pipeline"
    unet = {
        "_class_name": "UNet2DModel",
        "sample_size": 8,
        "block_out_channels": [32, 64],
        "layers_per_block": 1,
        "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"],
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "attention_head_dim": 64,
        "num_class_embeds": 3,
        "attn_norm_num_groups": 32,
        "flip_sin_to_cos": True,
    }
    scheduler = {
        "_class_name": "CMStochasticIterativeScheduler",
        "num_train_timesteps": 40,
        "sigma_min": 0.002,
        "sigma_max": 80.0,
        "sigma_data": 0.5,
    }
    index = {
        "_class_name": "ConsistencyModelPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "CMStochasticIterativeScheduler"],
    }
    texts = {
        "unet/config.json": unet,
        "scheduler/scheduler_config.json": scheduler,
        "model_index.json": index,
    }
    for name, content in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(content))
    weights = root / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(published(net, "diffusers"), weights)
    return Sample(root, net)


_MAKERS = {
    "native": _native,
    "edm": _edm,
    "ctm": _ctm,
    "ctm-cifar10": _ctm_cifar10,
    "openai": _openai,
    "diffusers": _diffusers,
    "state-dict": _state_dict,
}
assert set(_MAKERS) == set(FORMATS), "every format has its sample"
