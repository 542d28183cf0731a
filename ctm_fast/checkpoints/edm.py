"""Networks of NVlabs/edm, locuslab/ect and NVlabs/tcm: their pickles, and the live modules.

Each is a wrapper (EDMPrecond, ...) around a SongUNet or DhariwalUNet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..models.configs import Config, SongConfig
from ..models.recognise import recognise
from ..wrappers.edm import WRAPPERS, number
from .edm_arguments import NETWORKS, config_from_arguments
from .edm_wrappers import parametrised
from .found import Found
from .unpickle import Pickled, read_network


def read(source: Any, overrides: dict[str, Any]) -> Found:
    """Model of a network pickle or a live module; no code of the file is run.

    The class says what the preconditioning is, and the stored constructor arguments what the
    network is. Removed from `overrides`: which ("ema"), kind, precond, sigma_min, sigma_max,
    sigma_data, and fields of the configuration.

    Args:
        source: path or binary file of a pickle, or an `nn.Module`.
        overrides: what to take instead of what the file says.

    Raises:
        ValueError: for a global that is not on the allow-list, or a network that cannot be built
            here, naming what is unknown.
        DamagedCheckpoint: for a truncated or altered file.
    """
    if isinstance(source, nn.Module):
        return from_module(source, overrides)
    which = overrides.pop("which", "ema")
    network = read_network(source, which)
    found = _found(network, overrides)
    found.provenance["weights"] = which
    if isinstance(source, str | Path):
        found.provenance["file"] = Path(source).name
    return found


def from_module(module: nn.Module, overrides: dict[str, Any] | None = None) -> Found:
    """Model of a live network of these code bases; its tensors are shared, not copied.

    Raises:
        ValueError: for a module of another class, or one that cannot be built here.
    """
    return _found(_live(_unwrapped(module)), {} if overrides is None else overrides)


def is_known(module: nn.Module) -> bool:
    """Whether `from_module` knows the class of a live module."""
    return _class_name(_unwrapped(module)) in (*WRAPPERS, *NETWORKS)


def _found(network: Pickled, overrides: dict[str, Any]) -> Found:
    notes: list[str] = []
    inner, state = network, dict(network.state)
    if network.class_name in WRAPPERS:
        name, inner = network.class_name, _child(network)
        for table in WRAPPERS[name].tables:
            state.pop(table, None)
        state = {key.removeprefix("model."): value for key, value in state.items()}
    elif network.class_name in NETWORKS:
        name = "EDMPrecond"
        notes.append("precond='edm': a network without its wrapper does not say it")
    else:
        raise ValueError(_unknown(network.class_name))
    wrapper, attributes = WRAPPERS[name], network.attributes
    config, rows, said = _config(inner, state)
    notes += said
    if wrapper.variance:
        _cut_variance(state, config, rows)
        notes.append(
            f"the network predicts {rows} channels; the {config.img_channels} of the image are "
            "kept, the variance is left out"
        )
    elif rows != config.img_channels:
        raise ValueError(f"{inner.class_name} has out_channels={rows}, {name} does not use them")
    given = {f.name: overrides.pop(f.name) for f in _fields(config) if f.name in overrides}
    config = dataclasses.replace(config, **{key: _frozen(value) for key, value in given.items()})
    if wrapper.shift and "precond" not in overrides:
        shift = number(attributes, "sigma_min", 0.003)
        notes.append(
            f"evaluated with the boundary shift {shift:g}, as published; to go on training, "
            "precond='edm' is what it was trained with"
        )
    if attributes.get("use_fp16"):
        notes.append("its own code computes in float16 on a GPU; here only if dtype says so")
    precond, low, high = parametrised(wrapper, attributes, overrides, notes)
    return Found(
        format="edm",
        config=config,
        layout="edm",
        state=state,
        precond=precond,
        kind=overrides.pop("kind", wrapper.kind),
        sigma_min=low,
        sigma_max=high,
        notes=notes,
        provenance={"class": network.class_name, "network": inner.class_name},
    )


def _config(inner: Pickled, state: dict[str, Tensor]) -> tuple[Config, int, list[str]]:
    """(configuration, output channels, notes) of the network in a wrapper."""
    if inner.class_name not in NETWORKS:
        raise ValueError(_unknown(inner.class_name))
    if inner.args or inner.kwargs:
        arguments = config_from_arguments(inner.class_name, inner.args, inner.kwargs)
        config = arguments.config
        if isinstance(config, SongConfig) and config.embedding == "fourier":
            freqs = state.get("map_noise.freqs")
            scale = 1.0 if freqs is None else float(freqs.float().square().mean().sqrt())
            # The frequencies are stored; their scale is for networks that are begun anew.
            published = 0.02 if scale < 0.5 else 16.0
            config = dataclasses.replace(config, fourier_scale=published)
        return config, arguments.out_channels, []
    seen = recognise(state, {})
    layer = _output_layers(state)[0]
    rows = int(state[f"{layer}.weight"].shape[0])
    return (
        seen.config,
        rows,
        ["its arguments were not recorded; read from its weights", *seen.notes],
    )


def _cut_variance(state: dict[str, Tensor], config: Config, rows: int) -> None:
    if rows != 2 * config.img_channels:
        raise ValueError(
            f"the network has {rows} output channels for {config.img_channels} of the image; "
            "expected twice as many"
        )
    for layer in _output_layers(state):
        for kind in ("weight", "bias"):
            value = state[f"{layer}.{kind}"]
            state[f"{layer}.{kind}"] = value[: config.img_channels].clone()


def _output_layers(state: Mapping[str, Tensor]) -> list[str]:
    ends = ("out_conv.weight", "_aux_conv.weight")
    layers = [name.removesuffix(".weight") for name in state if name.endswith(ends)]
    if not layers or any(f"{layer}.bias" not in state for layer in layers):
        raise ValueError("the network has no output convolution under the name of its class")
    return layers


def _child(network: Pickled) -> Pickled:
    if "model" not in network.children:
        raise ValueError(f"the {network.class_name} has no network 'model' in it")
    return network.children["model"]


def _live(module: nn.Module, whole: bool = True) -> Pickled:
    kwargs = vars(module).get("_init_kwargs") or {}
    return Pickled(
        class_name=_class_name(module),
        args=tuple(vars(module).get("_init_args") or ()),
        kwargs=dict(kwargs),
        attributes={name: value for name, value in vars(module).items() if name[:1] != "_"},
        children={name: _live(child, False) for name, child in module.named_children() if whole},
        state={k: v.detach() for k, v in module.state_dict().items()} if whole else {},
    )


def _class_name(module: nn.Module) -> str:
    names = [cls.__name__ for cls in type(module).__mro__]
    return next((name for name in names if name in (*WRAPPERS, *NETWORKS)), names[0])


def _unwrapped(module: nn.Module) -> nn.Module:
    """The network in what torch.compile and data parallelism make of it."""
    for name in ("_orig_mod", "module"):
        inside = getattr(module, name, None)
        if isinstance(inside, nn.Module) and len(list(module.children())) == 1:
            return _unwrapped(inside)
    return module


def _unknown(name: str) -> str:
    if name in ("Precond", "UNet"):
        return f"a {name!r} of EDM2: magnitude-preserving networks are not supported"
    return f"a network of class {name!r}; known are {[*WRAPPERS, *NETWORKS]}"


def _fields(config: Config) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(config)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
