"""What stands in for modules of other code bases: their attributes around a frozen network."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..models.foreign_states import describe, examples
from ..models.key_layouts import without_prefix
from ..models.unet import UNet
from ..wrappers.known import host_class

Call = tuple[tuple[Any, ...], dict[str, Any]]  # arguments by position, and by name

TAKEN = (
    "a Denoiser or a network of ctm_fast.models, or a module of one of these code bases, known by "
    "its call and its state dict: SongUNet, DhariwalUNet and their wrappers (NVlabs/edm, "
    "locuslab/ect, ctm-cifar10), UNetModel (openai, sony/ctm), UNet2DModel (diffusers)"
)


class Foreign(nn.Module):
    """What stands in for a module of another code base: its call, its attributes, another network.

    Always in eval mode. Numbers, texts and lists of them are taken over as attributes, except
    those that choose half precision.

    Args:
        original: the module; not kept.
    """

    parameters_of_call: ClassVar[tuple[str, ...]]  # names of the original's arguments

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.host_class = host_class(original)  # by which the samplers know what it is
        self.notes: tuple[str, ...] = ()  # what was left out or found out
        for name, value in vars(original).items():
            taken = name.startswith("_") or name in vars(self) or hasattr(type(self), name)
            if not taken and _plain(value):
                setattr(self, name, False if name == "use_fp16" else value)
        last = list(original.parameters())[-1]
        # The dtype of its images, which is not that of our weights; `.to` changes it.
        like = torch.empty(0, dtype=last.dtype, device=last.device)
        self.register_buffer("like", like, persistent=False)
        super().train(False)

    like: Tensor

    @property
    def unet(self) -> UNet:
        """The frozen network."""
        raise NotImplementedError

    def move(self, device: torch.device) -> None:
        """Takes all tensors of its own there, after the network."""
        self.like = self.like.to(device)

    def train(self, mode: bool = True) -> Foreign:
        """Stays in eval mode."""
        super().train(False)
        return self

    def extra_repr(self) -> str:
        """What it stands in for."""
        return f"in place of {self.host_class}"


class RawNetwork(Foreign):
    """A network without scalings: its answer is the raw output F.

    Args:
        original: see `Foreign`.
        net: ours, with the same weights.
    """

    layouts: ClassVar[tuple[str, ...]]  # of the original's state dict, see `models.key_layouts`
    # Largest difference that the original's own rounding may make, as a share of its output.
    rounding: ClassVar[float] = 1e-4

    def __init__(self, original: nn.Module, net: UNet) -> None:
        super().__init__(original)
        self.net = net.eval()

    @property
    def unet(self) -> UNet:
        """The frozen network."""
        return self.net

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the images that it takes and gives."""
        return self.like.dtype

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.net.input_conv.weight.device

    def answer(
        self,
        x: Tensor,
        time: Tensor,
        to: Tensor | None = None,
        labels: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        """F in x's dtype and order of memory; x is cast to the weights' dtype, the times are not.

        Args:
            x: (batch, C, H, W).
            time: (batch,) or (1,).
            to: second time, (batch,) or (1,), or None.
            labels: classes or their weights; left out by an unconditional network.
            augment: augmentation labels, left out by a network without.
        """
        out = self.net(
            x.to(self.net.input_conv.weight.dtype),
            _real(time),
            None if to is None else _real(to),
            labels if self.net.label_dim else None,
            augment if self.net.augment_dim else None,
        )
        return out.to(x.dtype)

    def calls(self, batch: int) -> list[Call]:
        """Two random calls, the same ones every time; together they reach all weights."""
        raise NotImplementedError

    def images(self, batch: int, generator: torch.Generator) -> Tensor:
        """Random (batch, C, H, W) of the original's size and dtype."""
        size = self.net.img_resolution
        x = torch.randn(batch, self.net.img_channels, size, size, generator=generator)
        return x.to(self.like)


def _real(time: Tensor) -> Tensor:
    return time.to(torch.promote_types(time.dtype, torch.float32))


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def call_of(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of its call."""
    return tuple(inspect.signature(module.forward).parameters)


def unknown(module: nn.Module) -> str:
    """What a module is that `freeze` does not take, and what it takes."""
    state = without_prefix(module.state_dict())
    return (
        f"freeze takes {TAKEN}; got {type(module).__name__}, called as "
        f"({', '.join(call_of(module))}), whose state dict looks like {describe(list(state))} "
        f"({examples(list(state))})"
    )
