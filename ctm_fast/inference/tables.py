"""`Tabulated`: a denoiser that keeps what its network makes of noise levels it has seen."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoiser, combined
from ..models.unet import UNet

MOST = 256  # pairs of levels that are kept, the least recently used leaves first


@dataclass(frozen=True)
class Row:
    """All that a call needs of its levels, for one image; see `Denoiser.jump`."""

    version: int  # of the weights it was made from
    c_in: Tensor  # (1,)
    P: Tensor  # (1,)
    Q: Tensor  # (1,)
    modulation: Tensor  # (1, width)


class Tabulated(Denoiser):
    """A frozen denoiser. Called with numbers as levels it embeds each pair of them only once.

    The embedding of a level, and what every block makes of it, depends on nothing else without
    labels and augmentation; so the table is exact. With labels, or with tensors as levels, it
    works like any `Denoiser`.

    Args:
        model: its preconditioning, kind and range are taken over.
        net: frozen network.
    """

    net: UNet

    def __init__(self, model: Denoiser, net: UNet) -> None:
        super().__init__(
            net,
            model.precond,
            kind=model.kind,
            sigma_min=model.sigma_min,
            sigma_max=model.sigma_max,
        )
        self.eval()
        self._rows: OrderedDict[tuple[Any, ...], Row] = OrderedDict()

    def forward(
        self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None, **extra: Any
    ) -> Tensor:
        """E[image | x]; see `Denoiser.forward`."""
        if isinstance(sigma, Tensor) or labels is not None or extra:
            return super().forward(x, sigma, labels, **extra)
        return self._moved(x, float(sigma), None)

    def jump(
        self,
        x: Tensor,
        sigma: Tensor | float,
        sigma_to: Tensor | float,
        labels: Tensor | None = None,
    ) -> Tensor:
        """G(x, sigma, sigma_to); see `Denoiser.jump`."""
        given = isinstance(sigma, Tensor) or isinstance(sigma_to, Tensor)
        if given or labels is not None or self.kind != "trajectory":
            return super().jump(x, sigma, sigma_to, labels)
        return self._moved(x, float(sigma), float(sigma_to))

    def modulations(self, sigma: Tensor, sigma_to: Tensor | None = None) -> Tensor:
        """What the network is told at every level, (levels, width); see `UNet.modulation`.

        Args:
            sigma: (levels,) noise levels.
            sigma_to: (levels,) destinations, for a network that takes them; by default `sigma`.
        """
        c_noise = self.precond.c_noise(sigma)
        to = c_noise if sigma_to is None else self.precond.c_noise(sigma_to)
        told_to = self.precond.c_noise_to(c_noise, to) if self.kind == "trajectory" else None
        return self.net.modulation(c_noise, told_to)

    def _moved(self, x: Tensor, sigma: float, sigma_to: float | None) -> Tensor:
        row = self._row(x, sigma, sigma_to)
        scaled = row.c_in.reshape(-1, *[1] * (x.ndim - 1)) * x
        F = self.raw(scaled, modulation=row.modulation)
        P, Q = (values.expand(len(x)).contiguous() for values in (row.P, row.Q))
        return combined(x, F, P, Q)

    def _row(self, x: Tensor, sigma: float, sigma_to: float | None) -> Row:
        key = (sigma, sigma_to, x.dtype, x.device)
        version = sum(p._version for p in self.parameters())
        row = self._rows.pop(key, None)
        if row is None or row.version != version:
            row = self._made(x, sigma, sigma_to, version)
        self._rows[key] = row
        if len(self._rows) > MOST:
            self._rows.popitem(last=False)
        return row

    @torch.inference_mode(False)
    @torch.no_grad()
    def _made(self, x: Tensor, sigma: float, sigma_to: float | None, version: int) -> Row:
        t = torch.full((1,), sigma, dtype=x.dtype, device=x.device)
        s = t if sigma_to is None else torch.full_like(t, sigma_to)
        P, Q = (
            self.precond.denoise_coefficients(t)
            if sigma_to is None
            else self.precond.jump_coefficients(t, s)
        )
        modulation = self.modulations(t, s)
        return Row(version, self.precond.c_in(t), P, Q, modulation)

    def _apply(self, fn: Any, recurse: bool = True) -> Tabulated:
        self._rows = OrderedDict()
        super()._apply(fn, recurse)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Without the table."""
        return {**self.__dict__, "_rows": OrderedDict()}
