"""Heun's method, order 2, and the batched teacher solve of CTM.

Karras et al. 2022 (EDM), Algorithm 1; Kim et al. 2024 (CTM), Section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..kernels.heun import heun_correct, heun_predict
from .base import Denoise, Level, check_levels, expand, slope
from .euler import Euler


@dataclass(frozen=True)
class Heun:
    """Trapezoidal step; a step to level 0 is Euler's, whose slope needs no call at 0."""

    order: ClassVar[int] = 2
    nfe: ClassVar[int] = 2

    def step(
        self,
        denoiser: Denoise,
        x: Tensor,
        sigma: Level,
        sigma_to: Level,
        labels: Tensor | None = None,
    ) -> Tensor:
        """x at `sigma_to`; x (batch, ...), levels are numbers or (batch,)."""
        at_zero = (sigma_to == 0).all() if isinstance(sigma_to, Tensor) else sigma_to == 0
        if at_zero:
            return Euler().step(denoiser, x, sigma, sigma_to, labels)
        return trapezoid(denoiser, x, sigma, sigma_to, labels)


def trapezoid(
    denoiser: Denoise, x: Tensor, sigma: Level, sigma_to: Level, labels: Tensor | None = None
) -> Tensor:
    """x at `sigma_to` > 0 by the mean of the slopes at both ends, shape of x."""
    h = expand(sigma_to - sigma, x)
    d = slope(denoiser, x, sigma, labels)
    d_to = slope(denoiser, x + h * d, sigma_to, labels)
    return x + h / 2 * (d + d_to)


class HeunTable:
    """Coefficients of the fused Heun step for every interval of a grid.

    With denoised = P x + Q F, a = (1 - P) / t and b = -Q / t at the interval's ends t (index i)
    and t' (index i + 1), and h = t' - t:

        predicted = alpha x + beta F1            alpha = 1 + h a, beta = h b
        x_next    = A x + B F1 + C F2            A = 1 + h/2 (a + a' alpha),
                                                 B = h/2 (b + a' beta), C = h/2 b'

    Computed in float64 and rounded once. Row i of the last grid point is the identity.

    Args:
        precond: object with `c_in`, `c_noise` and `denoise_coefficients`, all linear in F.
        sigmas: (num_scales,) positive levels, in the order in which they are visited.
        dtype: of the solver state, float32 or float64.
        device: of the solver state.
    """

    names = ("alpha", "beta", "A", "B", "C", "c_in", "c_noise")

    def __init__(
        self,
        precond: Any,
        sigmas: Tensor | Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        t = torch.as_tensor(sigmas, dtype=torch.float64).cpu()
        P, Q = precond.denoise_coefficients(t)
        a, b = (1 - P) / t, -Q / t
        h = t.diff(append=t[-1:])
        a_to, b_to = torch.cat([a[1:], a[-1:]]), torch.cat([b[1:], b[-1:]])
        alpha, beta = 1 + h * a, h * b
        A, B, C = 1 + h / 2 * (a + a_to * alpha), h / 2 * (b + a_to * beta), h / 2 * b_to
        rows = [alpha, beta, A, B, C, precond.c_in(t), precond.c_noise(t)]
        self.values = torch.stack(rows).to(device=device, dtype=dtype)  # (7, num_scales)

    def __len__(self) -> int:
        return self.values.shape[1]

    def at(self, index: Tensor) -> dict[str, Tensor]:
        """Coefficients of the intervals that start at `index`, (batch,) each."""
        return dict(zip(self.names, self.values.index_select(1, index), strict=True))


def heun_solve_reference(
    denoiser: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    start: Tensor,
    num_steps: int | Tensor,
    labels: Tensor | None = None,
) -> Tensor:
    """What `heun_solve` returns, by the plain formula and on the whole batch at every step."""
    start, counts = _check_steps(x, sigmas, start, num_steps)
    grid = torch.as_tensor(sigmas, dtype=x.dtype).to(x.device)
    start, steps = start.to(x.device), torch.tensor(counts, device=x.device)
    for m in range(max(counts, default=0)):
        active = m < steps
        index = torch.where(active, start + m, start).clamp(max=len(grid) - 2)
        x_next = trapezoid(denoiser, x, grid[index], grid[index + 1], labels)
        x = torch.where(active.reshape(-1, *[1] * (x.ndim - 1)), x_next, x)
    return x


@torch.no_grad()
def heun_solve(
    denoiser: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    start: Tensor,
    num_steps: int | Tensor,
    labels: Tensor | None = None,
    table: HeunTable | None = None,
) -> Tensor:
    """Points after `num_steps` Heun steps along the grid, shape and dtype of x; no gradient.

    A `Denoiser` is called as a raw network between two fused updates, on the images whose steps
    are not done; other callables go through `heun_solve_reference`. Finished images keep their
    bits. Every step costs two network calls.

    Args:
        denoiser: called as denoiser(x, sigma, labels). It is taken apart if it has `raw` and
            `precond`, so a wrapper that changes the result must not have them.
        x: (batch, ...) float32 or float64, image j at level sigmas[start[j]].
        sigmas: (num_scales,) positive levels.
        start: (batch,) int64 grid indices. On another device than the CPU they are copied there
            first, which waits for that device.
        num_steps: steps of every image, or (batch,) int64; start + num_steps <= num_scales - 1.
        labels: (batch,), (batch, classes) or (1, classes), passed to the network.
        table: `HeunTable(denoiser.precond, sigmas, x.dtype, x.device)` if it is already there.

    Raises:
        ValueError: for indices off the grid, real indices, or inadmissible levels.

    Source: Kim et al. 2024, Section 3.2 (Solver), with Heun's method of Karras et al. 2022.
    """
    precond = getattr(denoiser, "precond", None)
    raw = getattr(denoiser, "raw", None)
    if precond is None or raw is None:
        return heun_solve_reference(denoiser, x, sigmas, start, num_steps, labels)
    start, counts = _check_steps(x, sigmas, start, num_steps)
    table = table or HeunTable(precond, sigmas, x.dtype, x.device)
    own = _network_dtype(denoiser, x)
    to_itself = getattr(denoiser, "kind", None) == "trajectory"

    # Images with more steps first: those still active are then always a prefix of the batch.
    order = sorted(range(len(counts)), key=lambda j: -counts[j])
    ragged = len(set(counts)) > 1
    if ragged:
        rows = torch.tensor(order, device=x.device)
        x, start = x[rows], start[order]
        # One row of labels may serve all images.
        labels = labels if labels is None or len(labels) == 1 else labels[rows]
    index = start.to(x.device)

    def network(scaled: Tensor, c_noise: Tensor) -> Tensor:
        classes = None if labels is None else labels[: len(scaled)]  # a single row stays
        return raw(scaled, c_noise, c_noise if to_itself else None, classes)

    now = table.at(index)
    scaled = (now["c_in"].reshape(-1, *[1] * (x.ndim - 1)) * x).to(own)
    done: list[Tensor] = []
    for m in range(max(counts, default=0)):
        left = sum(count > m for count in counts)
        if left < len(x):
            done.append(x[left:])
            x, scaled, index = x[:left], scaled[:left], index[:left]
            now = {name: value[:left] for name, value in now.items()}
        F1 = network(scaled, now["c_noise"])
        x = _like(x, F1)
        index = index + 1
        to = table.at(index)
        scaled = heun_predict(x, F1, now["alpha"], now["beta"], to["c_in"], out_dtype=own)
        F2 = _like(network(scaled, to["c_noise"]), x)
        x, scaled = heun_correct(x, F1, F2, now["A"], now["B"], now["C"], to["c_in"], out_dtype=own)
        now = to
    if not ragged:
        return x
    last = x.ndim == 4 and not x.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    joined = torch.cat([part.contiguous(memory_format=layout) for part in (x, *reversed(done))])
    result = torch.empty_like(joined)
    result[rows] = joined
    return result


def _network_dtype(denoiser: Any, x: Tensor) -> torch.dtype:
    if not isinstance(denoiser, torch.nn.Module):
        return x.dtype
    parameter: Tensor = next(denoiser.parameters(), x)
    return parameter.dtype


def _like(source: Tensor, layout: Tensor) -> Tensor:
    if source.stride() == layout.stride():
        return source
    return torch.empty_like(layout, dtype=source.dtype).copy_(source)


def _check_steps(
    x: Tensor, sigmas: Tensor | Sequence[float], start: Tensor, num_steps: int | Tensor
) -> tuple[Tensor, list[int]]:
    levels = check_levels(x, sigmas)
    if isinstance(levels[0], Tensor) or levels[-1] == 0:
        raise ValueError("a teacher solve needs sigmas (num_scales,), all above 0")
    start, steps = torch.as_tensor(start).cpu(), torch.as_tensor(num_steps).cpu()
    if start.is_floating_point() or steps.is_floating_point():
        raise ValueError(
            "start and num_steps must be whole numbers of grid steps; real positions "
            "(time_continuous) have no teacher solve"
        )
    if start.shape != (len(x),) or steps.numel() not in (1, len(x)):
        raise ValueError(
            f"start must be ({len(x)},) and num_steps a number or ({len(x)},), got "
            f"{tuple(start.shape)} and {tuple(steps.shape)}"
        )
    counts = steps.reshape(-1).expand(len(x)).tolist()
    last = len(levels) - 1
    for i, n in zip(start.tolist(), counts, strict=True):
        if i < 0 or n < 0 or i + n > last:
            raise ValueError(
                f"start={i} with num_steps={n} leaves the grid of {last + 1} levels; need "
                f"start >= 0, num_steps >= 0 and start + num_steps <= {last}"
            )
    return start, counts
