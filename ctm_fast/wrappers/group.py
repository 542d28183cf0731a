"""`Group`: what is called like one `Denoiser` and holds several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser, per_sample

G = TypeVar("G", bound="Group")
SAME_LEVEL = 1e-5  # relative; levels computed in float32 differ by less


class Group(nn.Module):
    """Denoisers of one kind, for images of one size, behind the interface of one.

    It takes part wherever a `Denoiser` is called or jumps. It has no `net` and no `precond`: it
    cannot be saved, or taken apart by a CTM's teacher solve.

    Args:
        members: each is a `Denoiser`, or has its methods and attributes; at least one. Modules are
            registered.

    Raises:
        ValueError: for members of different kinds or image shapes, or without a common range.
    """

    network_calls: int  # per image and call of the group

    def __init__(self, members: Sequence[Any]) -> None:
        super().__init__()
        if not members:
            raise ValueError(f"a {type(self).__name__} needs at least one model")
        for name in ("kind", "img_channels", "img_resolution"):
            if len(values := {getattr(member, name) for member in members}) > 1:
                raise ValueError(f"the models have different {name}: {sorted(values, key=str)}")
        if len(shapes := {shape_of(member) for member in members}) > 1:
            raise ValueError(f"the models have images of different shapes: {sorted(shapes)}")
        self.members = tuple(members)
        modules = [member for member in members if isinstance(member, nn.Module)]
        self.modules_of_members = nn.ModuleList(modules)
        self.kind = str(members[0].kind)

    def of(self: G, members: Sequence[Any]) -> G:
        """The same group of other members, for example of frozen copies."""
        raise NotImplementedError

    @property
    def settings(self) -> tuple[Any, ...]:
        """What its answers depend on besides its members."""
        raise NotImplementedError

    def forward(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """E[image | x], (batch, C, H, W); see `Denoiser.forward`."""
        raise NotImplementedError

    def jump(
        self,
        x: Tensor,
        sigma: Tensor | float,
        sigma_to: Tensor | float,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Point at `sigma_to` on the trajectory through (x, sigma); see `Denoiser.jump`."""
        raise NotImplementedError

    def score(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Gradient of log p_sigma at x: (denoised - x) / sigma^2, shape of x."""
        denoised = self(x, sigma, labels)
        return (denoised - x) / per_sample(sigma, x).reshape(-1, *[1] * (x.ndim - 1)) ** 2

    @property
    def eager(self) -> str:
        """Why it cannot be part of a CUDA graph; empty if nothing speaks against it."""
        return next((why for m in self.members if (why := getattr(m, "eager", ""))), "")

    @property
    def taken(self) -> str:
        """One sentence on what the group does, for the `repr` of a sampler."""
        return self.extra_repr()

    @property
    def dtype(self) -> torch.dtype | None:
        """What the first member computes in; see `Denoiser`."""
        dtype: torch.dtype | None = getattr(self.members[0], "dtype", None)
        return dtype

    @property
    def img_channels(self) -> int:
        """Channels of an image."""
        return int(self.members[0].img_channels)

    @property
    def img_resolution(self) -> int:
        """Height and width of an image, in pixels."""
        return int(self.members[0].img_resolution)

    @property
    def img_shape(self) -> tuple[int, ...]:
        """Shape of one image, (C, H, W)."""
        return shape_of(self.members[0])

    @property
    def ode_range(self) -> tuple[float, float]:
        """Smallest and largest level of an ODE sampler: those that all members have."""
        lows, highs = zip(*(ode_range_of(member) for member in self.members), strict=True)
        return max(lows), min(highs)

    def even_sigmas(self, steps: int) -> Tensor | None:
        """As of the members, see `Denoiser.even_sigmas`; None if they do not agree."""
        ways = [getattr(member, "even_sigmas", None) for member in self.members]
        found = [None if way is None else way(steps) for way in ways]
        first = found[0]
        agree = first is not None and all(f is not None and torch.equal(f, first) for f in found)
        return first if agree else None

    @property
    def label_dim(self) -> int:
        """Number of classes that a caller may name; 0 where no member takes any."""
        return max(int(member.label_dim) for member in self.members)

    @property
    def sigma_data(self) -> float:
        """Standard deviation of the data that the first member's scalings assume."""
        return float(self.members[0].sigma_data)


def level_of(member: Any, level: Tensor | float, x: Tensor) -> Tensor | float:
    """Level as a member takes it: (batch,), or as it is for a `Denoiser` and for a group."""
    return level if isinstance(member, Denoiser | Group) else per_sample(level, x)


def shape_of(member: Any) -> tuple[int, ...]:
    """Shape of a member's images, (C, H, W): square ones unless it says otherwise."""
    size = int(member.img_resolution)
    return tuple(getattr(member, "img_shape", None) or (int(member.img_channels), size, size))


def ode_range_of(member: Any) -> tuple[float, float]:
    """Smallest and largest level that an ODE sampler of a member visits."""
    low, high = getattr(member, "ode_range", (member.sigma_min, member.sigma_max))
    return float(low), float(high)


def calls_of(member: Any) -> int:
    """Network calls per image in one call of a member."""
    return member.network_calls if isinstance(member, Group) else 1


def same_end(members: Sequence[Any]) -> None:
    """Raise ValueError for consistency models that jump to different levels."""
    ends = [float(member.sigma_min) for member in members]
    if members[0].kind == "consistency" and not all(
        math.isclose(end, ends[0], rel_tol=SAME_LEVEL) for end in ends
    ):
        raise ValueError(f"consistency models that jump to different levels, {ends}")


def labels_for(member: Any, labels: Tensor | None) -> Tensor | None:
    """The labels, unless the member is unconditional."""
    return None if int(getattr(member, "label_dim", 0)) == 0 else labels
