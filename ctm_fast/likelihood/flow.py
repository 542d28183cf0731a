"""Log likelihood by the change of variables along the probability-flow ODE."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..sampler.engine import device_of
from ..sampler.seeding import as_seeds
from ..solvers.dopri5 import State
from ..solvers.per_image import EachIntegration, heun_each, integrate_each
from .divergence import check_gradient, rademacher, resolve_trace, traced
from .inputs import (
    batches,
    check_differentiable,
    checked_class_labels,
    checked_images,
    checked_model,
    outside_inference,
    sigma_data_of,
    sigma_range,
)

SOLVERS = ("dopri5", "heun")


class FlowResult(NamedTuple):
    """Likelihoods of a batch, and what they cost."""

    log_p: Tensor  # (batch,) float64, nats
    log_prior: Tensor  # (batch,) float64, nats; the prior's part of log_p
    nfe: Tensor  # (batch,) int64, network calls, each with its passes backwards
    passes: int  # passes backwards of each call: values of an image, or probes
    ends: Tensor  # (batch, C, H, W) where the images are at sigma_max


@dataclass(frozen=True)
class Flow:
    """How the ODE is solved and its divergence found; `Flow()(model, images)` solves it.

    With x = s z, s^2 = sigma^2 + sigma_data^2 and u = ln(sigma), what is integrated upwards is

        dz/du = (sd^2/s^2 x - D)/s        dl/du = sd^2/s^2 - tr(dD/dx)/d

    where l is the logarithm of the volume in nats per dimension. Both are 0 for Gaussian data of
    deviation sd, so that steps are spent on what is not Gaussian.

    Raises:
        ValueError: for options outside their range.

    Source: Song et al. 2021 (arXiv:2011.13456), Eq. 39; Karras et al. 2022, Eq. 3.
    """

    solver: str = "dopri5"  # adaptive for every image by itself, or heun with fixed steps in u
    rtol: float = 1e-5  # dopri5: relative tolerance of one step
    atol: float = 1e-5  # dopri5: absolute one, of z and of nats per dimension
    max_steps: int = 1000  # dopri5: steps of one image
    steps: int = 128  # heun: number of steps
    trace: str | None = None  # exact or hutchinson; by default exact up to EXACT_DIMS values
    probes: int = 1  # hutchinson: directions, of every image the same ones all along its solve
    prior_data_std: float = 0.0  # the prior is N(0, sigma_max^2 + this^2); published results have 0
    batch_size: int = 128  # images per network call
    dtype: torch.dtype = torch.float64  # of the state; the network keeps the one of its weights
    progress: bool = False  # show a bar

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ValueError(f"solver is {self.solver!r}; choose from {SOLVERS}")
        resolve_trace(self.trace, self.probes, 1)
        if not (math.isfinite(self.prior_data_std) and self.prior_data_std >= 0):
            raise ValueError(f"prior_data_std is {self.prior_data_std}; it must be at least 0")

    def __call__(
        self,
        model: Any,
        images: Tensor,
        labels: Any = None,
        *,
        seed: int | Iterable[int] = 0,
        sigma: float | None = None,
    ) -> FlowResult:
        """Likelihoods of images under the model's density at level `sigma`.

        Args:
            model: `Denoiser`, `Group`, or anything that `wrap` takes; its kind is denoiser or
                trajectory, whose g(x, t, t) is used.
            images: (batch, C, H, W) in the model's scale, usually [-1, 1].
            labels: (batch,) classes, one class, or (batch, label_dim) weights of a conditional
                model.
            seed: of the Hutchinson probes, one integer or one per image, as of `Sampler`.
            sigma: level that the images are at; by default the model's sigma_min.

        Raises:
            ValueError: for models without score or gradients, as one that a classifier guides, and
                images or labels that do not fit.
            SolverError: if the tolerance cannot be met.
        """
        model = checked_model(model)
        check_differentiable(model)
        x = checked_images(model, images, self.dtype)
        classes = checked_class_labels(model, labels, len(x))
        seeds, device = as_seeds(seed, len(x)), device_of(model, x)
        low, high = sigma_range(model)
        low = low if sigma is None else float(sigma)
        if not 0 < low < high:
            raise ValueError(f"sigma is {low}; it must be above 0 and below sigma_max={high}")
        trace = resolve_trace(self.trace, self.probes, x[:1].numel()) if len(x) else "exact"
        results: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        with outside_inference(model):
            for rows in batches(len(x), self.batch_size, self.progress):
                part = x[rows].to(device)
                own = None if classes is None else classes[rows].to(device)
                probes = None
                if trace == "hutchinson":
                    probes = rademacher(seeds[rows], self.probes, x.shape[1:]).to(device)
                if rows.start == 0:
                    middle = min(max(sigma_data_of(model), low), high)
                    check_gradient(model, part[:1], middle, None if own is None else own[:1])
                results.append(self._solved(model, part, own, probes, low, high))
        joined = [torch.cat(parts) for parts in zip(*results, strict=True)] if results else None
        if joined is None:
            none = torch.zeros(0, dtype=torch.float64)
            joined = [none, none, none.long(), x]
        log_p, log_prior, nfe, ends = joined
        passes = self.probes if trace == "hutchinson" else x[:1].numel()
        return FlowResult(log_p, log_prior, nfe, passes, ends)

    def _solved(
        self,
        model: Any,
        x: Tensor,
        labels: Tensor | None,
        probes: Tensor | None,
        low: float,
        high: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dims, variance = x[0].numel(), sigma_data_of(model) ** 2

        def field(u: Tensor, state: State, rows: Tensor) -> State:
            sigma = u.exp()
            square = sigma**2 + variance
            wide = square.sqrt().to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
            kept = (variance / square).to(x.dtype)
            own = None if labels is None else labels[rows]
            directions = None if probes is None else probes[rows]
            noisy = wide * state[0]
            denoised, trace = traced(model, noisy, sigma.to(x.dtype), own, directions)
            slope = (kept.reshape(wide.shape) * noisy - denoised) / wide
            return slope, kept - trace / dims

        state = x / math.sqrt(low**2 + variance), x.new_zeros(len(x))
        ends = self._integrated(field, state, math.log(low), math.log(high))
        top = math.sqrt(high**2 + variance)
        volume = dims * (ends.y[1].double() + math.log(top) - 0.5 * math.log(low**2 + variance))
        x_end = top * ends.y[0]
        spread = high**2 + self.prior_data_std**2
        squares = x_end.double().flatten(1).square().sum(1) / spread
        log_prior = -0.5 * (squares + dims * math.log(2 * math.pi * spread))
        return log_prior + volume, log_prior, ends.nfe, x_end

    def _integrated(self, field: Any, state: State, start: float, end: float) -> EachIntegration:
        if self.solver == "heun":
            return heun_each(field, state, start, end, self.steps)
        return integrate_each(field, state, start, end, self.rtol, self.atol, self.max_steps)


def log_likelihood(
    model: Any,
    images: Tensor,
    labels: Any = None,
    *,
    seed: int | Iterable[int] = 0,
    **options: Any,
) -> Tensor:
    """log p(x) of images at the model's sigma_min, (batch,) float64, nats.

    The density of the points that the probability-flow ODE maps onto N(0, sigma_max^2 I); see
    `Flow`, which also tells the number of network calls.

    Args:
        model: `Denoiser`, `Group`, or anything that `wrap` takes; of kind denoiser or trajectory.
        images: (batch, C, H, W) in the model's scale, usually [-1, 1].
        labels: (batch,) classes or (batch, label_dim) weights, of a conditional model only.
        seed: of the Hutchinson probes, one integer or one per image.
        options: fields of `Flow`: solver, rtol, atol, trace, probes, batch_size and others.

    Raises:
        ValueError: for options, models, images or labels that are not allowed.
        SolverError: if the tolerance cannot be met.

    Source: Song et al. 2021 (arXiv:2011.13456), Eq. 39.
    """
    return flow_of(options)(model, images, labels, seed=seed).log_p


def flow_of(options: dict[str, Any]) -> Flow:
    """`Flow` of keyword arguments.

    Raises:
        ValueError: for names that it does not have.
    """
    known = sorted(field.name for field in dataclasses.fields(Flow))
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"unknown options {unknown}; choose from {known}")
    return Flow(**options)
