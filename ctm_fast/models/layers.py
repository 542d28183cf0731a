"""Layers that every network is built from: convolution, resampling, normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import kernels


class Conv2d(nn.Conv2d):
    """Convolution, by default one that keeps the image size. Weights are set by `init`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | None = None,
    ) -> None:
        around = kernel_size // 2 if padding is None else padding
        super().__init__(in_channels, out_channels, kernel_size, stride, around)

    def without_bias(self, x: Tensor) -> Tensor:
        """The convolution of x (batch, C, H, W) alone, for a caller that adds the bias later."""
        return self._conv_forward(x, self.weight, None)

    def reset_parameters(self) -> None:
        """Nothing: PyTorch would draw from the global random state here."""


class Linear(nn.Linear):
    """Affine layer whose weights are set by the network's `init`."""

    def reset_parameters(self) -> None:
        """Nothing: PyTorch would draw from the global random state here."""

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled or copied: a packed weight alone, without those it lies among."""
        state = self.__dict__.copy()
        weight = state["_parameters"].get("weight")
        if weight is None or weight.requires_grad:
            return state
        if weight.untyped_storage().nbytes() > weight.nbytes:
            alone = nn.Parameter(weight.detach().clone(), requires_grad=False)
            state["_parameters"] = {**state["_parameters"], "weight": alone}
        return state


class Constant(nn.Module):
    """A float32 tensor that follows the module's device, but never its dtype, and is not saved.

    It is rebuilt from `values` after every move, so it also survives `to_empty`.
    """

    value: Tensor

    def __init__(self, values: Any) -> None:
        super().__init__()
        self.values = values
        self.register_buffer("value", torch.tensor(values, dtype=torch.float32), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Constant:
        super()._apply(fn, recurse)
        if not self.value.is_meta:
            self.value = torch.tensor(self.values, dtype=torch.float32, device=self.value.device)
        return self

    def extra_repr(self) -> str:
        """Shape of the tensor."""
        return f"shape={tuple(self.value.shape)}"


class Resample(nn.Module):
    """Halves or doubles height and width with a small symmetric filter, zero padded.

    Args:
        taps: one-dimensional filter of even length, for example (1, 1) or (1, 3, 3, 1). It is
            normalised and applied along both axes.
        up: True to double, False to halve.

    Raises:
        ValueError: if `taps` is not symmetric, of even length and of non-zero sum.

    Source: Song et al. 2021 (score SDE), Appendix H; Karras et al. 2022, Section 5.
    """

    def __init__(self, taps: tuple[int, ...], up: bool) -> None:
        super().__init__()
        self.up = up
        self.is_box = tuple(taps) == (1, 1)
        self.padding = (len(taps) - 1) // 2
        self.kernel = None if self.is_box else Constant([[filter_matrix(taps)]])

    def forward(self, x: Tensor, padding: int | None = None) -> Tensor:
        """(batch, C, H', W') with H' = 2H or H/2; `padding` replaces the usual zero padding."""
        if self.kernel is None:
            return _double(x) if self.up else F.avg_pool2d(x, 2)
        channels = x.shape[1]
        padding = self.padding if padding is None else padding
        weight = self.kernel.value.to(x.dtype).expand(channels, -1, -1, -1)
        if self.up:
            return F.conv_transpose2d(x, weight * 4, stride=2, padding=padding, groups=channels)
        return F.conv2d(x, weight, stride=2, padding=padding, groups=channels)

    def extra_repr(self) -> str:
        """Direction and filter length."""
        return f"up={self.up}, taps={2 * self.padding + 2}"


def filter_matrix(taps: tuple[int, ...]) -> list[list[float]]:
    """Outer product of the taps, normalised to sum 1.

    Raises:
        ValueError: if `taps` is not symmetric, of even length and of non-zero sum.
    """
    if len(taps) % 2 or not taps or tuple(taps) != tuple(taps[::-1]) or sum(taps) == 0:
        raise ValueError(
            f"resample_filter must be symmetric, of even length and of non-zero sum, got {taps}"
        )
    total = sum(taps) ** 2
    return [[a * b / total for b in taps] for a in taps]


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def group_norm(channels: int, eps: float, min_group: int, most: int = 32) -> nn.GroupNorm:
    """Normalisation over `most` groups, fewer where one would have under `min_group` channels.

    Raises:
        ValueError: if the channels do not divide into the groups.
    """
    groups = min(most, channels // min_group)
    if groups == 0 or channels % groups:
        raise ValueError(
            f"{channels} channels do not divide into {groups} groups "
            f"({most} groups of at least {min_group} channels)"
        )
    return nn.GroupNorm(groups, channels, eps=eps)


def norm_act(
    x: Tensor,
    norm: nn.GroupNorm,
    *,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """Group norm and SiLU, with the noise level's modulation: (batch, C, H, W).

    Args:
        x: (batch, C, H, W).
        norm: over C channels.
        bias: (batch or 1, C), added to x before it is normalised.
        scale, shift: (batch or 1, C); the normalised x becomes x (1 + scale) + shift.
    """
    return kernels.group_norm(
        x, norm.num_groups, norm.weight, norm.bias, norm.eps, scale, shift, bias, act=True
    )


def norm_of_joined(
    x: Tensor,
    norm: nn.GroupNorm,
    plus: Tensor | None = None,
    factor: float = 1.0,
    tail: Tensor | None = None,
    *,
    act: bool = True,
) -> tuple[Tensor, Tensor]:
    """Group norm and SiLU of cat([factor (x + plus), tail]), and that image: both (batch, C, H, W).

    Args:
        x: (batch, C or fewer, H, W).
        norm: over C channels.
        plus: shape and dtype of x; None for x alone, without the factor.
        factor: of the sum.
        tail: the other channels, or None.
        act: whether SiLU follows.
    """
    args = (norm.num_groups, norm.weight, norm.bias, norm.eps, None, None, None, act)
    if plus is None and tail is None:
        return kernels.group_norm(x, *args), x
    return kernels.group_norm(x, *args, plus, factor, tail)


def channels_last(x: Tensor) -> Tensor:
    """x in channels-last memory order, also where one channel leaves the order ambiguous."""
    if x.shape[1] == 1:
        return x.reshape(x.shape[0], *x.shape[2:]).unsqueeze(-1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)
