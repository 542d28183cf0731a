"""Frozen networks inside the classes that scale them: EDM's, ECT's and ctm-cifar10's."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..denoiser import combined, per_sample
from ..models.layers import Constant
from ..models.unet import UNet
from ..precond import Preconditioning
from ..wrappers.edm import WRAPPERS, Attributes
from .foreign_module import Call, Foreign, RawNetwork


class ScaledNetwork(Foreign):
    """A network with its scalings: the same formulas around `model`, another network.

    Args:
        original: see `Foreign`.
        model: in place of the original's network.
    """

    def __init__(self, original: nn.Module, model: RawNetwork) -> None:
        super().__init__(original)
        self.model = model

    @property
    def unet(self) -> UNet:
        """The frozen network."""
        return self.model.net

    def round_sigma(self, sigma: Any) -> Any:
        """Nearest noise levels that the network knows: the given ones."""
        return torch.as_tensor(sigma)

    def move(self, device: torch.device) -> None:
        """Takes all tensors of its own there, after the network."""
        super().move(device)
        self.model.move(device)

    def calls(self, batch: int) -> list[Call]:
        """Two random calls, the same ones every time."""
        raise NotImplementedError


class DenoisingNetwork(ScaledNetwork):
    """EDMPrecond, VPPrecond, VEPrecond, iDDPMPrecond or ECMPrecond.

    Args:
        original: see `Foreign`.
        model: in place of the original's network.
        name: which of them.

    Raises:
        ValueError: for attributes of the original that are out of range.
    """

    parameters_of_call: ClassVar[tuple[str, ...]] = (
        "x",
        "sigma",
        "class_labels",
        "force_fp32",
        "model_kwargs",
    )

    def __init__(self, original: nn.Module, model: RawNetwork, name: str) -> None:
        super().__init__(original, model)
        attributes: Attributes = vars(original)
        self.precond: Preconditioning = WRAPPERS[name].precond(attributes)
        self.label_dim = int(attributes.get("label_dim", model.net.label_dim))
        self.levels = None
        if WRAPPERS[name].variance:
            levels = getattr(original, "u", None)
            if not isinstance(levels, Tensor):
                raise ValueError(f"{self.host_class} has no table u of noise levels")
            self.levels = Constant(levels.tolist()).to(levels.device)

    def move(self, device: torch.device) -> None:
        """Takes all tensors of its own there, after the network."""
        super().move(device)
        if self.levels is not None:
            self.levels.to(device)

    def forward(
        self,
        x: Tensor,
        sigma: Tensor | float,
        class_labels: Tensor | None = None,
        force_fp32: bool = False,
        **model_kwargs: Any,
    ) -> Tensor:
        """Denoised images, (batch, C, H, W) float32.

        Args:
            x: (batch, C, H, W), any dtype; taken in float32.
            sigma: (batch,), or one level for all.
            class_labels: (batch or 1, label_dim) weights of the classes; None for no class.
            force_fp32: means nothing here.
            model_kwargs: passed to `model`.
        """
        x = x.to(torch.float32)
        levels = torch.as_tensor(sigma).to(device=x.device, dtype=torch.float32).reshape(-1)
        scaled = self.precond.c_in(levels).reshape(-1, 1, 1, 1) * x
        labels = self.class_rows(class_labels, x)
        F = self.model(scaled, self.precond.c_noise(levels), class_labels=labels, **model_kwargs)
        F = F if F.shape[1] == x.shape[1] else F[:, : x.shape[1]].contiguous()
        P, Q = self.precond.denoise_coefficients(per_sample(levels, x))
        return combined(x, F.to(torch.float32), P, Q)

    def class_rows(self, labels: Tensor | None, x: Tensor) -> Tensor | None:
        """(batch or 1, label_dim) float32, or None for an unconditional network."""
        if self.label_dim == 0:
            return None
        if labels is None:
            return x.new_zeros(1, self.label_dim)
        return labels.to(torch.float32).reshape(-1, self.label_dim)

    def round_sigma(self, sigma: Any, return_index: bool = False) -> Any:
        """Nearest noise levels that the network knows, or their indices; shape of sigma."""
        sigma = torch.as_tensor(sigma)
        if self.levels is None:
            return sigma
        table = self.levels.value
        index = (sigma.to(table).reshape(-1, 1) - table).abs().argmin(1)
        found = index if return_index else table[index].to(sigma.dtype)
        return found.reshape(sigma.shape).to(sigma.device)

    def calls(self, batch: int) -> list[Call]:
        """With a class and without, at levels where image and noise are both seen."""
        net, generator = self.model.net, torch.Generator().manual_seed(1)
        size = net.img_resolution
        calls: list[Call] = []
        for first in (0.8, 5.0):
            sigma = torch.linspace(first, first / 2, batch)
            x = torch.randn(batch, net.img_channels, size, size, generator=generator)
            named: dict[str, Any] = {"force_fp32": True}
            if self.label_dim and not calls:
                rows = torch.randint(self.label_dim, (batch,), generator=generator)
                named["class_labels"] = nn.functional.one_hot(rows, self.label_dim)
            calls.append(((x * (sigma**2 + 0.25).sqrt().reshape(-1, 1, 1, 1), sigma), named))
        return calls


class CTMNetwork(ScaledNetwork):
    """EDMPrecond_CTM of ctm-cifar10, which only converts times: 250 ln sigma -> ln(sigma)/4."""

    parameters_of_call: ClassVar[tuple[str, ...]] = (
        "rescaled_x",
        "rescaled_t",
        "s",
        "teacher",
        "model_kwargs",
    )

    def forward(
        self,
        rescaled_x: Tensor,
        rescaled_t: Tensor,
        s: Tensor | None = None,
        teacher: bool = False,
        **model_kwargs: Any,
    ) -> Tensor:
        """F, (batch, C, H, W) float32.

        Args:
            rescaled_x: (batch, C, H, W) c_in x, any dtype; taken in float32.
            rescaled_t: (batch,) 250 ln sigma.
            s: (batch,) 250 ln of the level jumped to.
            teacher: means nothing, as there.
            model_kwargs: y, (batch,) classes, or nothing.
        """
        x, net = rescaled_x.to(torch.float32), self.model.net
        y = model_kwargs.pop("y", None)
        if model_kwargs:
            raise ValueError(f"{self.host_class} takes y only, got {sorted(model_kwargs)}")
        labels = None
        if net.label_dim:
            labels = x.new_zeros(1, net.label_dim)
            if y is not None:
                labels = nn.functional.one_hot(y.long(), net.label_dim).to(x)
        to = None if s is None else s.flatten() / 1000
        return self.model(x, rescaled_t.flatten() / 1000, to, class_labels=labels)

    def convert_to_fp16(self) -> None:
        """Nothing, as there."""

    def convert_to_fp32(self) -> None:
        """Nothing, as there."""

    def calls(self, batch: int) -> list[Call]:
        """With a class and without."""
        net, generator = self.model.net, torch.Generator().manual_seed(1)
        size = net.img_resolution
        calls: list[Call] = []
        for first in (300.0, -200.0):
            x = torch.randn(batch, net.img_channels, size, size, generator=generator)
            t = torch.linspace(first, first - 90, batch)
            named: dict[str, Any] = {"s": t - 150} if net.has_destination else {}
            if net.label_dim and not calls:
                named["y"] = torch.randint(net.label_dim, (batch,), generator=generator)
            calls.append(((x, t), named))
        return calls


SCALED_NETWORKS: tuple[type[ScaledNetwork], ...] = (DenoisingNetwork, CTMNetwork)
