"""Networks of other code bases with our weights: how each is built, cast and called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ctm_fast.models import ADMConfig, SongConfig, UNet
from ctm_fast.models.key_layouts import to_published

from .arms import COMPILED, Absent, Arm, Ready, compiled
from .contest import Case
from .networks import classes, inputs
from .outcome import PEER
from .peers import Clone, missing

Call = Callable[[Tensor, Tensor, "Tensor | None", "Tensor | None"], Tensor]


@dataclass
class Network:
    """A network of a clone.

    Attributes:
        module: the part that is called and compiled.
        arguments: what `module` is called with, of what one of ours is called with.
        half: gives the torso another dtype than float32 in the way of its authors.
        takes: dtype of images that it casts by itself; None: that of the torso.
        note: what a reader has to know.
    """

    module: nn.Module
    arguments: Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]
    half: Callable[[torch.dtype], Any]
    takes: torch.dtype | None = None
    note: str = ""


def network_arms(clones: list[Clone], case: Case, net: UNet) -> Iterator[Arm]:
    """The arms of all clones: as published, in float32, channels-last, and compiled."""
    for clone in clones:
        variants: tuple[tuple[str, torch.dtype, dict[str, Any]], ...] = (
            ("", case.dtype, {}),
            (" fp32", torch.float32, {}),
            (" channels-last", case.dtype, {"channels_last": True}),
            *(
                (f" {name}", case.dtype, {"channels_last": True, "mode": mode})
                for name, mode in COMPILED.items()
            ),
        )
        for words, dtype, options in variants:
            if words == " fp32" and case.dtype == torch.float32:
                continue
            yield Arm(clone.name + words, _builder(clone, case, net, dtype, **options), PEER, dtype)


def _builder(
    clone: Clone,
    case: Case,
    net: UNet,
    dtype: torch.dtype,
    channels_last: bool = False,
    mode: str | None = None,
) -> Callable[[], Ready]:
    def build() -> Ready:
        found = built(clone, net)
        return ready(clone, found, case, net, dtype, channels_last, mode)

    return build


def ready(
    clone: Clone,
    found: Network,
    case: Case,
    net: UNet,
    dtype: torch.dtype,
    channels_last: bool = False,
    mode: str | None = None,
) -> Ready:
    """An arm that calls a network of a clone on the inputs of a case."""
    module = found.module.to(case.device).eval().requires_grad_(False)
    if channels_last:
        if isinstance(net.config, SongConfig):
            module.to(dtype)
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if dtype != torch.float32:
        found.half(dtype)
    given = [None if t is None else t.to(case.device) for t in inputs(net, case.batch)]
    order = torch.channels_last if channels_last else torch.contiguous_format
    assert given[0] is not None
    given[0] = given[0].to(case.dtype).to(found.takes or dtype).contiguous(memory_format=order)
    args, kwargs = found.arguments(*given)
    call: Callable[..., Any] = module
    if mode is not None:
        call = compiled(module, mode, frozen=True, device=case.device, whole=False)

    def work() -> Any:
        with clone.active(), torch.inference_mode():
            return call(*args, **kwargs)

    return Ready(work, lambda: {"output": work()}, found.note)


def built(clone: Clone, net: UNet) -> Network:
    """The network of a clone that corresponds to one of ours, with its weights.

    Raises:
        Absent: the clone has no such network, or needs what is not installed.
    """
    if clone.name == "openai-cm" and net.has_destination:
        raise Absent(f"{clone.name} has no destination embedding")
    if clone.name == "edm":
        return _edm(clone, net)
    if isinstance(net.config, ADMConfig):
        return _unet_model(clone, net)
    if clone.name == "openai-cm":
        raise Absent(f"{clone.name} has no network of the DDPM++ family")
    return _ctm_song(clone, net)


def _song_sizes(config: SongConfig) -> dict[str, Any]:
    return {
        "model_channels": config.model_channels,
        "channel_mult": list(config.channel_mult),
        "channel_mult_emb": config.channel_mult_emb,
        "num_blocks": config.num_blocks,
        "attn_resolutions": list(config.attn_resolutions),
        "dropout": config.dropout,
    }


def _edm(clone: Clone, net: UNet) -> Network:
    if net.has_destination:
        raise Absent("edm has no destination embedding")
    config = net.config
    module = clone.load("training.networks")
    sizes: dict[str, Any] = {
        "img_resolution": config.img_resolution,
        "in_channels": config.img_channels,
        "out_channels": config.img_channels,
        "label_dim": config.label_dim,
    }
    with clone.active():
        if isinstance(config, SongConfig):
            if config.adaptive_scale:
                raise Absent("edm's SongUNet has no adaptive scale")
            made = module.SongUNet(
                **sizes,
                **_song_sizes(config),
                channel_mult_noise=config.channel_mult_noise,
                embedding_type=config.embedding,
                encoder_type=config.encoder,
                decoder_type=config.decoder,
                resample_filter=list(config.resample_filter),
            )
        else:
            made = module.DhariwalUNet(**sizes, **_adm_sizes(config))
    made.load_state_dict(to_published(net.state_dict(), config, "edm"))
    hot = _one_hot(net)
    return Network(made, lambda x, c, s, y: ((x, c, hot(x, y)), {}), lambda dtype: None)


def _adm_sizes(config: ADMConfig) -> dict[str, Any]:
    return {
        "model_channels": config.model_channels,
        "channel_mult": list(config.channel_mult),
        "channel_mult_emb": config.channel_mult_emb,
        "num_blocks": config.num_blocks,
        "attn_resolutions": list(config.attn_resolutions),
        "dropout": config.dropout,
    }


def _one_hot(net: UNet) -> Callable[[Tensor, Tensor | None], Tensor | None]:
    def encode(x: Tensor, labels: Tensor | None) -> Tensor | None:
        if labels is None:
            return torch.zeros(1, net.label_dim, device=x.device) if net.label_dim else None
        return torch.nn.functional.one_hot(labels, net.label_dim).float()

    return encode


def wrapped_song(clone: Clone, net: UNet, fp16: bool = False) -> nn.Module:
    """The DDPM++ or NCSN++ of a clone of CTM in its wrapper, with our weights.

    Args:
        clone: of sony/ctm or ctm-cifar10.
        net: of the same architecture.
        fp16: what the wrapper is told; it follows on a GPU only.

    Raises:
        Absent: the clone has no such network.
    """
    config = net.config
    assert isinstance(config, SongConfig)
    if config.adaptive_scale:
        raise Absent(f"{clone.name}'s SongUNet has no adaptive scale here")
    module = clone.load("cm.networks")
    with clone.active():
        wrapper = module.EDMPrecond_CTM(
            config.img_resolution,
            config.img_channels,
            label_dim=config.label_dim,
            use_fp16=fp16,
            training_mode="ctm" if config.destination else "",
            arch="ncsnpp" if config.embedding == "fourier" else "ddpmpp",
            **_song_sizes(config),
        )
    wrapper.model.load_state_dict(to_published(net.state_dict(), config, "edm"))
    return wrapper


def _ctm_song(clone: Clone, net: UNet) -> Network:
    made: Any = wrapped_song(clone, net).model
    hot = _one_hot(net)
    return Network(made, lambda x, c, s, y: ((x, c, s, hot(x, y)), {}), lambda dtype: None)


def _unet_model(clone: Clone, net: UNet) -> Network:
    config = net.config
    assert isinstance(config, ADMConfig)
    if missing("einops"):
        raise Absent(f"{clone.name} needs einops: pip install einops")
    flash = not missing("flash_attn")
    module = clone.load("cm.unet")
    options: dict[str, Any] = {}
    if clone.name != "openai-cm":
        options = {"training_mode": "ctm" if config.destination else ""}
        options["attention_type"] = "flash" if flash else "default"
    with clone.active():
        made = module.UNetModel(
            image_size=config.img_resolution,
            in_channels=config.img_channels,
            model_channels=config.model_channels,
            out_channels=config.img_channels,
            num_res_blocks=config.num_blocks,
            attention_resolutions=tuple(
                config.img_resolution // size for size in config.attn_resolutions
            ),
            dropout=config.dropout,
            channel_mult=config.channel_mult,
            num_classes=config.label_dim or None,
            num_head_channels=config.channels_per_head,
            use_scale_shift_norm=config.adaptive_scale,
            resblock_updown=True,
            **options,
        )
        if clone.name == "openai-cm" and not flash:
            for part in made.modules():
                if isinstance(part, module.AttentionBlock):
                    part.attention = module.QKVAttention(part.num_heads)
    layout = "adm-legacy" if clone.name == "ctm-cifar10" and not flash else "adm"
    made.load_state_dict(to_published(net.state_dict(), config, layout))

    def half(dtype: torch.dtype) -> None:
        made.dtype = dtype
        for torso in (made.input_blocks, made.middle_block, made.output_blocks):
            for part in torso.modules():
                if isinstance(part, (nn.Conv1d, nn.Conv2d)):
                    part.to(dtype)

    def arguments(x: Tensor, c: Tensor, s: Any, y: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        extra = {} if clone.name == "openai-cm" else {"s": s}
        classed = y if y is not None or not net.label_dim else classes(net, len(x))
        return (x, c), {"y": classed, **extra}

    note = "" if flash else "attention without flash_attn, which is not installed"
    return Network(made, arguments, half, torch.float32, note)
