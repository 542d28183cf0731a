"""Sampling phase by phase, with edge skipping. Wang et al. 2024 (SCT), arXiv:2410.18958."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor

from .jumps import Callback
from .ode import sample_euler
from .seeding import NoiseSampler
from .step_tables import checked_sigmas


def sample_phased(
    model: Any,
    x: Tensor,
    sigmas: Tensor | Iterable[float],
    extra_args: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    eta: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Images at sigmas[-1], one network call per phase, no noise; k-diffusion's form.

    A network that was trained in phases maps x_t to the lower edge e of the phase that holds t, as
    (e/t) x_t + (1 - e/t) D(x_t, t). Right at an edge it is poor, because there it would have to be
    the identity below and a whole phase above. So every phase but the last ends at eta e instead,
    inside the next one: x = (eta e/t) x_t + (1 - eta e/t) D(x_t, t). eta = 1 lands on the edges.

    Args:
        model: called as model(x, sigma, **extra_args) with sigma (batch,), a number for a
            `Denoiser`; returns D. A consistency model that was trained in these phases.
        x: (batch, C, H, W) noise, already scaled by sigmas[0].
        sigmas: (phases + 1,) decreasing: where the first phase begins, and the lower edge of every
            phase; the last one may be 0.
        extra_args: passed on to the model, for example {"labels": labels}.
        callback: called after every step with the keys x, i, sigma, sigma_hat (where the step
            began: eta times the edge, but for the first) and denoised (D).
        disable: of the progress bar; None shows it on a terminal only.
        eta: in (0, 1], how far below its edge a phase ends.
        noise_sampler: accepted for hosts that always pass one; never called.

    Raises:
        ValueError: for bad sigmas, eta outside (0, 1] or so small that a phase is left out.

    Source: SCT, Section 4.3.
    """
    levels = phase_levels(checked_sigmas(sigmas), eta)
    return sample_euler(model, x, levels, extra_args, callback, disable)


def phase_levels(edges: list[float], eta: float) -> list[float]:
    """Levels at which the steps begin, and the last edge: eta times every edge between the ends.

    Raises:
        ValueError: unless 0 < eta <= 1 and every level stays above the next edge.
    """
    if not 0 < eta <= 1:
        raise ValueError(f"eta is {eta}; it must lie in (0, 1]")
    between = [eta * edge for edge in edges[1:-1]]
    for level, (edge, below) in zip(between, pairwise(edges[1:]), strict=True):
        if level <= below:
            raise ValueError(f"eta={eta} goes from the edge {edge} past the next edge {below}")
    return [edges[0], *between, edges[-1]]
