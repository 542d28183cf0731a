"""The linear path between image and noise: its times, velocities, and a model as its flow map.

Legend: z = (1 - t) image + t noise, with t = sigma/(1 + sigma) and z = x/(1 + sigma); r <= t is
the time jumped to; u(z, t, r) = (z - z_r)/(t - r) is the average velocity, v = u(z, t, t).
Geng et al. 2025 (MeanFlow), arXiv:2505.13447.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..noise_embeddings import DiscreteTime
from .moves import on_device
from .tangents import derivative


@dataclass(frozen=True)
class FlowTimes:
    """Times t >= r: sigmoids of two normal numbers, of which a share of the images keeps one.

    `moving` is the share of images that jump. Published code states either this number or the
    share of those that stay (r = t), and it is 0.75 both times; see `PUBLISHED_TIMES`.

    Raises:
        ValueError: for deviations that are not positive, or a share outside [0, 1].

    Source: Geng et al. 2025 (MeanFlow), published code; the defaults are those of its later
    CIFAR-10 runs.
    """

    t_mean: float = -0.6  # of logit(t)
    t_std: float = 1.6  # > 0
    r_mean: float = -4.0  # of logit(r)
    r_std: float = 1.6  # > 0
    sort: bool = False  # t is the larger of both; False: r is lowered to t where it is above
    moving: float = 0.75  # share of images with r drawn, in [0, 1]; the others have r = t

    def __post_init__(self) -> None:
        if not (self.t_std > 0 and self.r_std > 0):
            raise ValueError(f"t_std and r_std must be positive, got {self.t_std} and {self.r_std}")
        if not 0 <= self.moving <= 1:
            raise ValueError(f"moving must be in [0, 1], got {self.moving}")

    def sample(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """t and r, (batch_size,) float64 each in (0, 1), on the generator's device."""
        options = {"generator": generator, "dtype": torch.float64, "device": generator.device}
        normal = torch.randn(2, batch_size, **options)  # type: ignore[call-overload]
        t = (self.t_mean + self.t_std * normal[0]).sigmoid()
        r = (self.r_mean + self.r_std * normal[1]).sigmoid()
        if self.sort:
            t, r = torch.maximum(t, r), torch.minimum(t, r)
        uniform = torch.rand(batch_size, **options)  # type: ignore[call-overload]
        return t, torch.where(uniform < self.moving, torch.minimum(t, r), t)


# Published times. The first code states `data_proportion` 0.75, the share that stays; the other
# two `ratio` 0.75, the share that jumps.
PUBLISHED_TIMES: dict[str, FlowTimes] = {
    "imagenet": FlowTimes(-0.4, 1.0, -0.4, 1.0, sort=True, moving=0.25),  # Gsunshine/meanflow
    "cifar10_paper": FlowTimes(-2.0, 2.0, -2.0, 2.0, sort=True),  # Gsunshine/py-meanflow, v0
    "cifar10": FlowTimes(),  # Gsunshine/py-meanflow, v1
}


def within(times: Tensor, model: Denoiser) -> Tensor:
    """Times moved into the model's range of noise levels, shape of `times`."""
    low, high = (s / (1 + s) for s in (model.sigma_min, model.sigma_max))
    return times.clamp(low, high)


def column(values: Tensor, x: Tensor) -> Tensor:
    """(batch,) numbers ready for arithmetic with x, in its dtype."""
    return values.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def path_point(images: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """z = (1 - t) images + t noise, shape of `images`; t is (batch,)."""
    return column(1 - t, images) * images + column(t, images) * noise


def average_velocity(
    model: Denoiser, z: Tensor, t: Tensor, r: Tensor, labels: Tensor | None = None
) -> Tensor:
    """u(z, t, r), shape and dtype of z, by one network call; at r = t the velocity.

    For any inner scalings: a model whose outer parametrisation is `Euler` is a flow map.

    Args:
        model: of kind "trajectory".
        z: (batch, C, H, W) points of the path, float32 or float64.
        t: (batch,) float64 in (0, 1).
        r: (batch,) float64 in (0, t].
        labels: as in `Denoiser.forward`.

    Raises:
        ValueError: for another outer parametrisation.
    """
    # Equal times have to give equal levels, bit by bit.
    sigma, sigma_to, scale = t / (1 - t), r / (1 - r), 1 / (1 - t)
    on_x, on_F = model.precond.velocity_coefficients(sigma)
    scaled = column(model.precond.c_in(sigma) * scale, z) * z
    F = model.network(z, sigma.to(z.dtype), sigma_to.to(z.dtype), labels, scaled)
    return column(on_x * scale, z) * z + column(on_F, z) * F.to(z.dtype)


def velocity(model: Denoiser, z: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
    """v(z, t) = (z - denoised)/t of any denoiser, shape and dtype of z; arguments as above."""
    # In float64 nothing is lost where both are close, and the network computes as always.
    wide = z.double()
    denoised: Tensor = model(wide / column(1 - t, wide), t / (1 - t), labels)
    return ((wide - denoised) / column(t, wide)).to(z.dtype)


def each_apart(error: Callable[..., Tensor], moves: Tensor | None, *given: Tensor | None) -> Tensor:
    """error(jumps, *given), (batch,), once for images that stay and once for those that jump.

    Images with r = t need no derivative, and dropout masks are shared by passes of equal shape
    only; so both get passes of their own.

    Args:
        error: its first argument says whether images jump.
        moves: (batch,) on the CPU, 0 for images that stay; None: taken as if all jumped.
        given: (batch, ...) or None; a single row serves all images.
    """
    if moves is None or bool((moves != 0).all()):
        return error(True, *given)
    if not bool((moves != 0).any()):
        return error(False, *given)
    order = moves.argsort(stable=True)
    count = int((moves == 0).sum())
    errors = []
    for jumps, rows in ((False, order[:count]), (True, order[count:])):
        errors.append(error(jumps, *(_selected(value, rows, len(moves)) for value in given)))
    joined = torch.cat(errors)
    return joined.index_select(0, on_device(order.argsort(), joined.device))


def _selected(value: Tensor | None, rows: Tensor, batch: int) -> Tensor | None:
    if value is None or len(value) != batch:
        return value
    return value.index_select(0, on_device(rows, value.device))


def velocity_slope(
    model: Denoiser,
    z: Tensor,
    t: Tensor,
    r: Tensor,
    direction: Tensor,
    labels: Tensor | None = None,
    how: str = "forward",
) -> Tensor:
    """du/dt as z moves with velocity `direction` and r stays, shape of z; no gradient.

    Computed in the dtype of the weights, as half precision would drown the slope. The next call of
    the model has the dropout masks of this one. Arguments as in `average_velocity`; `how` as in
    `tangents.derivative`.

    Raises:
        ValueError: for a noise embedding that has no derivative.
    """
    if isinstance(getattr(model.precond, "noise_embedding", None), DiscreteTime):
        raise ValueError("DiscreteTime has no derivative; use a continuous noise embedding")
    exact = copy.copy(model)
    exact.dtype = None

    def u(z: Tensor, t: Tensor) -> Tensor:
        return average_velocity(exact, z, t, r, labels)

    if how == "forward":
        return derivative(u, (z, t), (direction, torch.ones_like(t)), how)
    # Where there is little room to 0 or 1, a step in time has to be shorter.
    pace = (50 * torch.minimum(t, 1 - t)).clamp(max=1)
    slope = derivative(u, (z, t), (column(pace, z) * direction, pace), how)
    return slope / column(pace, z)
