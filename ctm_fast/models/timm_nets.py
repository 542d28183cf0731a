"""Feature maps of ImageNet networks of timm, whose weights the caller has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .dropout import replayed

SIZE = 224  # pixels that these networks were trained at
_LARGE = 256  # images from this size on are not resized for a convolutional network
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_DEIT = "https://dl.fbaipublicfiles.com/deit/"
_LITE = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"
_BLOCKS = [2, 5, 8, 11]  # of a vision transformer whose outputs are its maps
# Ends of the names of tensors that no map needs.
_UNUSED = ("head.", "head_dist.", "norm.", "conv_head.", "bn2.", "classifier.")


@dataclass(frozen=True)
class TimmFacts:
    """What is known of a network of timm."""

    url: str  # of its published weights
    mean_std: tuple[tuple[float, ...], tuple[float, ...]]  # of images in [0, 1], per channel
    tokens: bool  # a vision transformer: four maps of one size

    @property
    def files(self) -> tuple[str, ...]:
        """Names under which its weights are published."""
        return (self.url.rsplit("/", 1)[1],)

    def where(self, model: str) -> str:
        """Which file it is and where to get it."""
        return (
            f"timm's {model}: the file {self.files[0]} from {self.url}, or model.safetensors from "
            f"https://huggingface.co/timm/{model}.{'fb_in1k' if self.tokens else 'in1k'} with its "
            "sha256"
        )


# sony/ctm uses deit_base and lite0; the smaller DeiTs have the same structure.
TIMM = {
    "deit_base_distilled_patch16_224": TimmFacts(
        f"{_DEIT}deit_base_distilled_patch16_224-df68dfff.pth", _IMAGENET, True
    ),
    "deit_small_distilled_patch16_224": TimmFacts(
        f"{_DEIT}deit_small_distilled_patch16_224-649709d9.pth", _IMAGENET, True
    ),
    "deit_tiny_distilled_patch16_224": TimmFacts(
        f"{_DEIT}deit_tiny_distilled_patch16_224-b40b3cf7.pth", _IMAGENET, True
    ),
    "tf_efficientnet_lite0": TimmFacts(f"{_LITE}tf_efficientnet_lite0-0aa007d2.pth", _HALF, False),
}


class TimmNet(nn.Module):
    """Frozen network of timm: images in [-1, 1] -> four feature maps, finest first.

    Images are brought to [0, 1], normalised with the network's mean and standard deviation, and
    resized to 224 pixels (bilinear): all for a vision transformer, those below 256 otherwise.

    Args:
        model: a key of `TIMM`.
        state: its state dict.
        origin: where that came from, for error messages.

    Attributes:
        channels: of the four maps. A convolutional network's have 1/4, 1/8, 1/16 and 1/32 of the
            image's size, a vision transformer's all 1/16.

    Raises:
        ImportError: without timm.
        ValueError: for the weights of another network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: str, state: Mapping[str, Tensor], origin: str) -> None:
        super().__init__()
        facts = TIMM[model]
        self.tokens = facts.tokens
        self.net = _architecture(model)
        _load(self.net, state, f"{origin} does not hold the weights of timm's {model}")
        if self.tokens:
            self.channels = (self.net.embed_dim,) * len(_BLOCKS)
        else:
            self.channels = tuple(self.net.feature_info.channels())
        for name, values in zip(("mean", "std"), facts.mean_std):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Four maps (batch, C_i, H_i, W_i) for images (batch, 1 or 3, H, W)."""
        x = three_channels(images).to(self.mean.dtype)
        x = ((x + 1) / 2 - self.mean) / self.std
        if x.shape[-2:] != (SIZE, SIZE) and (self.tokens or x.shape[-2] < _LARGE):
            x = functional.interpolate(x, (SIZE, SIZE), mode="bilinear", align_corners=False)
        if self.tokens:
            found = self.net.forward_intermediates(x, indices=_BLOCKS, intermediates_only=True)
        else:
            found = self.net(x)
        return list(found)


def three_channels(images: Tensor) -> Tensor:
    """Images with their one channel repeated; those with three as they are.

    Raises:
        ValueError: for another number of channels.
    """
    if images.shape[1] == 1:
        return images.expand(-1, 3, -1, -1)
    if images.shape[1] != 3:
        raise ValueError(f"this backbone takes images of 1 or 3 channels, got {images.shape[1]}")
    return images


def _architecture(model: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"{model} needs timm and the torchvision that it imports: "
            f'pip install "ctm_fast[gan]" ({error})'
        ) from None
    maps: dict[str, Any] = {}
    if not TIMM[model].tokens:
        maps = {"features_only": True, "out_indices": (1, 2, 3, 4)}
    # timm draws initial weights, which are replaced: nobody else's random numbers change.
    with replayed("cpu"):
        return timm.create_model(model, pretrained=False, **maps)


def _load(net: nn.Module, state: Mapping[str, Tensor], refusal: str) -> None:
    own = net.state_dict()
    missing = sorted(k for k in own if k not in state and not k.startswith(_UNUSED))
    # As PyTorch does: files of its early versions have no counts, which nothing here reads.
    missing = [k for k in missing if not k.endswith(".num_batches_tracked")]
    unknown = sorted(k for k in state if k not in own and not k.startswith(_UNUSED))
    shapes = sorted(k for k in own if k in state and state[k].shape != own[k].shape)
    for what, names in (
        ("lacks", missing),
        ("also has", unknown),
        ("has other shapes for", shapes),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"{refusal}: it {what} {', '.join(names[:3])}{more}")
    net.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)
