"""Derivatives of a network along a direction in its inputs, and how large they may get.

What a continuous-time consistency loss needs besides the network's answer: how the answer moves as
noisy image and noise level move along a trajectory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..models.dropout import replayed

Function = Callable[..., Tensor]
Tensors = Sequence[Tensor]


def forward(function: Function, primals: Tensors, tangents: Tensors) -> Tensor:
    """d/dh function(primals + h tangents) at h = 0, by one pass in forward mode; no gradient.

    Dual numbers, not `torch.func.jvp`: inside its transform dropout draws other masks. The
    kernels have no forward mode and leave the pass to their PyTorch definitions.
    """
    with torch.no_grad(), forward_ad.dual_level():
        pairs = [(p.detach(), t.detach().to(p)) for p, t in zip(primals, tangents)]
        try:
            out = function(*(forward_ad.make_dual(p, t) for p, t in pairs))
        except NotImplementedError as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"the network has no forward-mode derivative ({reason}); use how='difference'"
            ) from None
        value, slope = forward_ad.unpack_dual(out)
    return torch.zeros_like(value) if slope is None else slope


def difference(
    function: Function, primals: Tensors, tangents: Tensors, step: float | None = None
) -> Tensor:
    """The same derivative from function at primals +- step tangents; no gradient.

    Points and difference are float64, so that only the function rounds; a function that ends in
    float32 is exact to about 1e-4 relative to its size.

    Args:
        function: of tensors that it casts to its own dtype.
        primals: where.
        tangents: direction, shapes of `primals`.
        step: h > 0; by default the cube root of the rounding error of the first primal's dtype.
    """
    h = step or torch.finfo(primals[0].dtype).eps ** (1 / 3)
    ends = []
    with torch.no_grad():
        for sign in (h, -h):
            # Both ends and the pass that follows see the same dropout masks.
            with replayed(primals[0].device):
                moved = [p.double() + sign * t.double() for p, t in zip(primals, tangents)]
                ends.append(function(*moved).double())
    return ((ends[0] - ends[1]) / (2 * h)).to(primals[0].dtype)


METHODS: dict[str, Callable[[Function, Tensors, Tensors], Tensor]] = {
    "forward": forward,
    "difference": difference,
}


def check_method(how: str) -> None:
    """Raise ValueError unless `how` is a name in METHODS."""
    if how not in METHODS:
        raise ValueError(f"unknown derivative {how!r}; choose from {sorted(METHODS)}")


def derivative(
    function: Function, primals: Tensors, tangents: Tensors, how: str = "forward"
) -> Tensor:
    """d/dh function(primals + h tangents) at h = 0, shape of the function's value; no gradient.

    Random numbers of the default generator are as if the function had not been called: the next
    call of the same network has the dropout masks that the derivative was taken with.

    Args:
        function: called as function(*primals), for example a network.
        primals: tensors, float32 or float64; the first is on the device of the random numbers.
        tangents: direction in which each of them moves, of its shape.
        how: forward (exact; every operation needs a forward-mode derivative) or difference (central
            difference of two calls, for all others).

    Raises:
        ValueError: for an unknown method, tangents that do not fit, or a function without
            forward-mode derivative.
    """
    check_method(how)
    shapes = [tuple(p.shape) for p in primals], [tuple(t.shape) for t in tangents]
    if shapes[0] != shapes[1]:
        raise ValueError(f"primals of shapes {shapes[0]} cannot move along {shapes[1]}")
    with replayed(primals[0].device):
        return METHODS[how](function, primals, tangents)


def by_norm(g: Tensor, offset: float) -> Tensor:
    """g / (|g| + offset), the norm over all values of an image: below 1.

    Source: Lu & Song 2024 (sCM, arXiv:2410.11081), Algorithm 1.
    """
    norm = g.flatten(1).norm(dim=1).reshape(-1, *[1] * (g.ndim - 1))
    return g / (norm + offset)


def by_rms(g: Tensor, offset: float) -> Tensor:
    """g / (|g|/sqrt(number of values) + offset): `offset` is relative to the size of one value.

    Source: NVlabs/FastGen, whose sCM divides the norm so.
    """
    root = math.sqrt(g[0].numel()) if len(g) else 1.0
    return by_norm(g, offset * root) * root


def clipped(g: Tensor, offset: float) -> Tensor:
    """Every value of g clipped to [-1, 1]; `offset` is not used. Source: sCM, Section 4.2."""
    return g.clamp(-1, 1)


def as_it_is(g: Tensor, offset: float) -> Tensor:
    """g, as the theory has it."""
    return g


NORMALISATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "norm": by_norm,
    "rms": by_rms,
    "clip": clipped,
    "none": as_it_is,
}


def check_normalisation(name: str, offset: float) -> None:
    """Raise ValueError unless `name` is in NORMALISATIONS and `offset` is positive."""
    if name not in NORMALISATIONS:
        raise ValueError(f"unknown normalisation {name!r}; choose from {sorted(NORMALISATIONS)}")
    if not offset > 0:
        raise ValueError(f"offset must be positive, got {offset}")
