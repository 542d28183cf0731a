"""Writes network pickles in the format of NVlabs/edm, from classes of our own.

Stand-ins for the modules that such files name exist only while a file is written. The source text
that each object carries, which the original loader executes, raises an error.
"""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctm_fast.models import ADMConfig, SongConfig

SOURCE = "raise AssertionError('source text of a pickle was executed')\n"
_CONTAINERS = ("enc", "dec")


def _reconstruct_persistent_obj(meta: Any) -> None:
    raise AssertionError("called while a file is written")


class EasyDict(dict):  # type: ignore[type-arg]
    """Stands for dnnlib's dictionary."""


class Persistent(nn.Module):
    """Stands for an object whose class is stored as source text."""

    def __init__(self, class_name: str, **attributes: Any) -> None:
        super().__init__()
        self.__dict__["shown_as"] = class_name
        self.__dict__.update(attributes)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: value for name, value in vars(self).items() if name != "shown_as"}
        meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE,
            "class_name": vars(self)["shown_as"],
            "state": state,
        }
        return _reconstruct_persistent_obj, (meta,)


class Loss:
    """Stands for ECT's loss, which keeps one of its methods."""

    def __init__(self) -> None:
        self.q, self.t_to_r = 2, self.t_to_r_sigmoid

    def t_to_r_sigmoid(self) -> None:
        """Not called."""

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": "ECMLoss"}
        return _reconstruct_persistent_obj, ({**meta, "state": vars(self)},)


def tree(class_name: str, state: Mapping[str, Tensor], **attributes: Any) -> Persistent:
    """Object with the tensors of a state dict in modules inside it."""
    root = Persistent(class_name, **attributes)
    for name, value in state.items():
        *path, leaf = name.split(".")
        place: nn.Module = root
        for part in path:
            if part not in place._modules:
                inside = nn.ModuleDict() if part in _CONTAINERS else Persistent("Part")
                place.add_module(part, inside)
            place = place._modules[part]  # type: ignore[assignment]
        if leaf in ("resample_filter", "freqs"):
            place.register_buffer(leaf, value)
        else:
            place.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
    root.register_buffer("unused", None)
    return root.eval()


def inner_arguments(config: SongConfig | ADMConfig) -> tuple[str, dict[str, Any]]:
    """(class name, keyword arguments) with which NVlabs/edm makes the network of a config."""
    shared = ("img_resolution", "label_dim", "augment_dim", "model_channels", "channel_mult_emb")
    shared += ("num_blocks", "dropout", "label_dropout")
    arguments = {name: getattr(config, name) for name in shared}
    for name in ("channel_mult", "attn_resolutions"):
        arguments[name] = list(getattr(config, name))
    arguments |= {"in_channels": config.img_channels, "out_channels": config.img_channels}
    if isinstance(config, ADMConfig):
        return "DhariwalUNet", arguments
    return "SongUNet", {
        **arguments,
        "embedding_type": config.embedding,
        "encoder_type": config.encoder,
        "decoder_type": config.decoder,
        "channel_mult_noise": config.channel_mult_noise,
        "resample_filter": list(config.resample_filter),
    }


def network(
    config: SongConfig | ADMConfig,
    state: Mapping[str, Tensor],
    wrapper: str = "EDMPrecond",
    out_channels: int | None = None,
    inner: Mapping[str, Any] | None = None,
    **attributes: Any,
) -> Persistent:
    """A wrapper around the network of `config`, whose published state is given.

    Args:
        config: of the network.
        state: names without "model.".
        wrapper: class name.
        out_channels: constructor argument, where it is not the image's channels.
        inner: further constructor arguments of the network.
        attributes: of the wrapper.
    """
    class_name, arguments = inner_arguments(config)
    arguments |= {} if out_channels is None else {"out_channels": out_channels}
    model = tree(class_name, state)
    model.__dict__ |= {"_init_args": (), "_init_kwargs": {**arguments, **(inner or {})}}
    # As published: a NumPy number among the attributes.
    model.__dict__ |= {"label_dropout": 0, "skip_scale": np.sqrt(0.5)}
    sizes = {name: getattr(config, name) for name in ("img_resolution", "img_channels")}
    attributes = {**sizes, "label_dim": config.label_dim, "use_fp16": False, **attributes}
    outside = Persistent(wrapper, **attributes)
    outside.__dict__ |= {"_init_args": (), "_init_kwargs": EasyDict(model_type=class_name, **sizes)}
    outside.add_module("model", model)
    return outside.eval()


def pickled(ema: Any, protocol: int = 4, **entries: Any) -> bytes:
    """The bytes of a file with this network and what else the training loops store."""
    others = {
        "loss_fn": Loss(),
        "augment_pipe": None,
        "dataset_kwargs": EasyDict(class_name="training.dataset.ImageFolderDataset", path="a.zip"),
    }
    with stand_ins():
        return pickle.dumps({"ema": ema, **others, **entries}, protocol=protocol)


@contextmanager
def stand_ins() -> Iterator[None]:
    """The modules that such files name, while a file is written."""
    modules = {
        "torch_utils": {},
        "torch_utils.persistence": {"_reconstruct_persistent_obj": _reconstruct_persistent_obj},
        "dnnlib": {},
        "dnnlib.util": {"EasyDict": EasyDict},
    }
    assert not set(modules) & set(sys.modules)
    homes = {_reconstruct_persistent_obj: "torch_utils.persistence", EasyDict: "dnnlib.util"}
    own = {item: item.__module__ for item in homes}
    try:
        for name, content in modules.items():
            sys.modules[name] = types.ModuleType(name)
            vars(sys.modules[name]).update(content)
        for item, home in homes.items():
            item.__module__ = home
        yield
    finally:
        for item, home in own.items():
            item.__module__ = home
        for name in modules:
            sys.modules.pop(name, None)


def iddpm_table(steps: int) -> Tensor:
    """A tensor of the shape of the wrapper's own table of noise levels."""
    return torch.linspace(1, 0, steps + 1)
