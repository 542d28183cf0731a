"""Frozen networks under the calls of other code bases: EDM's, openai's, sony's and diffusers'."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..models.unet import UNet
from .foreign_module import Call, RawNetwork


class SongNetwork(RawNetwork):
    """SongUNet and DhariwalUNet of NVlabs/edm and locuslab/ect."""

    parameters_of_call: ClassVar[tuple[str, ...]] = (
        "x",
        "noise_labels",
        "class_labels",
        "augment_labels",
    )
    layouts = ("edm",)

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """F of one-hot labels, or None."""
        return self.answer(x, noise_labels, None, class_labels, augment_labels)

    def calls(self, batch: int) -> list[Call]:
        """With and without augmentation."""
        return _edm_calls(self, batch, augmented=True)


class SongTrajectory(RawNetwork):
    """SongUNet of ctm-cifar10."""

    parameters_of_call: ClassVar[tuple[str, ...]] = (
        "x",
        "noise_labels",
        "noise_labels_s",
        "class_labels",
    )
    layouts = ("edm",)

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        noise_labels_s: Tensor | None,
        class_labels: Tensor | None,
    ) -> Tensor:
        """F of one-hot labels, or None."""
        return self.answer(x, noise_labels, noise_labels_s, class_labels)

    def calls(self, batch: int) -> list[Call]:
        """At two pairs of times."""
        return _edm_calls(self, batch, augmented=False)


class DhariwalTrajectory(RawNetwork):
    """DhariwalUNet of ctm-cifar10."""

    parameters_of_call: ClassVar[tuple[str, ...]] = (
        *SongTrajectory.parameters_of_call,
        "augment_labels",
    )
    layouts = ("edm",)

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        noise_labels_s: Tensor | None,
        class_labels: Tensor | None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """F of one-hot labels, or None."""
        return self.answer(x, noise_labels, noise_labels_s, class_labels, augment_labels)

    def calls(self, batch: int) -> list[Call]:
        """At two pairs of times; with and without augmentation."""
        return _edm_calls(self, batch, augmented=True)


class ADMNetwork(RawNetwork):
    """UNetModel of openai's guided-diffusion and consistency_models."""

    parameters_of_call: ClassVar[tuple[str, ...]] = ("x", "timesteps", "y")
    layouts = ("adm", "adm-legacy")
    rounding = 5e-3  # some of them attend in float16 whatever the dtype of the rest

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        """F; `y` are classes.

        Raises:
            ValueError: for classes without a conditional network, or the other way round.
        """
        return self.answer(x, timesteps, None, _classes(self.net, "y", y))

    def convert_to_fp16(self) -> None:
        """Nothing: its dtype was chosen when it was frozen."""

    def convert_to_fp32(self) -> None:
        """Nothing: its dtype was chosen when it was frozen."""

    def calls(self, batch: int) -> list[Call]:
        """At two times."""
        return _adm_calls(self, batch, (False, False))


class ADMTrajectory(ADMNetwork):
    """UNetModel of sony/ctm and ctm-cifar10."""

    parameters_of_call: ClassVar[tuple[str, ...]] = (*ADMNetwork.parameters_of_call, "s", "teacher")

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        y: Tensor | None = None,
        s: Tensor | None = None,
        teacher: bool = False,
    ) -> Tensor:
        """F; `y` are classes, `teacher` means nothing, as there.

        Raises:
            ValueError: as `ADMNetwork`; for `s` without a network that takes it.
        """
        return self.answer(x, timesteps, s, _classes(self.net, "y", y))

    def calls(self, batch: int) -> list[Call]:
        """With a second time, if it takes one, and without."""
        return _adm_calls(self, batch, (self.net.has_destination, False))


class DiffusersNetwork(RawNetwork):
    """UNet2DModel of diffusers.

    Args:
        original: see `Foreign`; its `config` is kept.
        net: ours, with the same weights.
    """

    parameters_of_call: ClassVar[tuple[str, ...]] = (
        "sample",
        "timestep",
        "class_labels",
        "return_dict",
    )
    layouts = ("diffusers",)

    def __init__(self, original: nn.Module, net: UNet) -> None:
        super().__init__(original, net)
        self.config: Any = getattr(original, "config", None)
        self.output_class: Any = None  # of what it answers, seen when it is compared

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """F as `sample` of the original's output class, or in a tuple.

        Raises:
            ValueError: for classes without a conditional network, or the other way round.
        """
        # As there, a number is a whole step and a tensor need not be.
        steps = timestep if isinstance(timestep, Tensor) else torch.tensor(int(timestep))
        time = steps.to(sample.device).reshape(-1)
        labels = _classes(self.net, "class_labels", class_labels)
        out = self.answer(sample, time, None, labels)
        if not return_dict or self.output_class is None:
            return (out,)
        return self.output_class(sample=out)

    def calls(self, batch: int) -> list[Call]:
        """A whole and a real time step."""
        generator = torch.Generator().manual_seed(0)
        named: dict[str, Any] = {}
        if self.net.label_dim:
            named["class_labels"] = torch.randint(self.net.label_dim, (batch,), generator=generator)
        times = (torch.arange(batch) + 17, torch.tensor(300.5))
        return [((self.images(batch, generator), time), named) for time in times]


def _edm_calls(network: RawNetwork, batch: int, augmented: bool) -> list[Call]:
    net, generator = network.net, torch.Generator().manual_seed(0)
    calls: list[Call] = []
    for first in (-0.9, 1.7):
        x = network.images(batch, generator)
        times = [torch.linspace(first, first + 1, batch)]
        if "noise_labels_s" in network.parameters_of_call:
            times.append(times[0] - 0.7 if net.has_destination else None)  # type: ignore[arg-type]
        classes = None
        if net.label_dim:
            rows = torch.randint(net.label_dim, (batch,), generator=generator)
            classes = nn.functional.one_hot(rows, net.label_dim).to(x)
        named: dict[str, Any] = {}
        if augmented and net.augment_dim and not calls:
            augment = torch.randn(batch, net.augment_dim, generator=generator)
            named["augment_labels"] = augment.to(x)
        calls.append(((x, *times, classes), named))
    return calls


def _adm_calls(network: RawNetwork, batch: int, second: tuple[bool, bool]) -> list[Call]:
    net, generator = network.net, torch.Generator().manual_seed(0)
    calls: list[Call] = []
    for first, two_times in zip((200.0, -400.0), second, strict=True):
        time = torch.linspace(first, first - 90, batch)
        named: dict[str, Any] = {}
        if net.label_dim:
            named["y"] = torch.randint(net.label_dim, (batch,), generator=generator)
        if two_times:
            named["s"] = time - 130
        calls.append(((network.images(batch, generator), time), named))
    return calls


def _classes(net: UNet, name: str, labels: Tensor | None) -> Tensor | None:
    if (labels is not None) != (net.label_dim > 0):
        raise ValueError(
            f"{name} is {'missing' if labels is None else 'given'}, and the network has "
            f"{net.label_dim or 'no'} classes"
        )
    return labels


RAW_NETWORKS: tuple[type[RawNetwork], ...] = (
    SongNetwork,
    SongTrajectory,
    DhariwalTrajectory,
    ADMNetwork,
    ADMTrajectory,
    DiffusersNetwork,
)
