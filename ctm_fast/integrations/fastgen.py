"""Door of NVlabs/FastGen: an object with `network.sample`.

A FastGen network is called as network(x_t, t, condition, r=None, fwd_pred_type="x0"), with
x_t = x0 + t eps ("edm") or x_t = (1 - t) x0 + t eps ("flow"): t is the noise in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..sampler.jumps import Callback, as_state, report
from ..sampler.ode import sample_euler, sample_heun
from ..sampler.step_tables import checked_sigmas
from ..sigmas import SIGMA_MAX, karras_sigmas
from .hosts import HostModel, refuse, sampling
from .noise import Noise

KINDS = ("denoiser", "consistency", "trajectory")
TIMES = ("edm", "flow")
METHODS = {
    "denoiser": ("heun", "euler"),
    "consistency": ("renoise",),
    "trajectory": ("exact", "renoise"),
}
KEYWORDS = ("noise", "condition", "neg_condition", "guidance_scale", "num_steps", "generator")


@dataclass(frozen=True)
class FastGenSampler:
    """Stands in for a FastGen network where `.sample` is called on it.

    With the predicted image g = network(x_t, t, condition, r=r), both time conventions move by
    x_r = (r/t) x_t + (1 - r/t) g. A denoiser (no r) is solved with Heun's or Euler's method; a
    trajectory or average-velocity network (with r) jumps along the grid; a consistency network
    jumps to the end and is noised again.

    Raises:
        ValueError: for unknown choices.
    """

    network: Any
    kind: str  # "denoiser", "consistency" or "trajectory" (takes r; MeanFlow too)
    time: str = "edm"  # "edm": x0 + t eps; "flow": (1 - t) x0 + t eps
    method: str | None = None  # "heun" or "euler"; "renoise"; "exact" or "renoise": see above
    times: tuple[float, ...] | None = None  # own grid, decreasing, its last entry 0
    latents: str = "unit"  # what `noise` is: of variance 1, or "scaled" by the first time

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("kind", self.kind, KINDS),
            ("time", self.time, TIMES),
            ("latents", self.latents, ("unit", "scaled")),
            ("method", self.method, (None, *METHODS.get(self.kind, ()))),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; choose from {allowed}")
        if self.times is not None:
            levels = checked_sigmas(self.times, "times")
            if levels[-1] != 0:
                raise ValueError(f"times must end at 0, got {levels}")
            object.__setattr__(self, "times", tuple(levels))

    def sample(
        self,
        noise: Tensor,
        condition: Any = None,
        neg_condition: Any = None,
        guidance_scale: float | None = None,
        num_steps: int | None = None,
        *,
        generator: Any = None,
        callback: Callback | None = None,
        **unknown: Any,
    ) -> Tensor:
        """Images, shape and dtype of noise, not clamped.

        Args:
            noise: (batch, ...) first state.
            condition: passed to the network.
            neg_condition: condition of what guidance moves away from; needs guidance_scale.
            guidance_scale: w in g_neg + w (g - g_neg); None or 1 is off.
            num_steps: >= 1; 1 by default for networks that jump, 18 for denoisers. Not with own
                times.
            generator: draws the noise between jumps, as in `Noise`; the global one by default.
            callback: called at every step with the keys x, i, sigma, sigma_hat (both the time)
                and denoised.
            unknown: anything else is an error.

        Raises:
            ValueError: for unknown keywords, guidance without a negative condition, or bad steps.
        """
        refuse("FastGenSampler.sample", unknown, KEYWORDS)
        guided = guidance_scale is not None and guidance_scale != 1
        if guided != (neg_condition is not None):
            raise ValueError(
                f"guidance_scale={guidance_scale} and neg_condition={neg_condition!r} go together"
            )
        times = self._grid(num_steps)
        scale = times[0] if self.latents == "unit" else 1.0
        x = as_state(noise) * scale
        model = self._model(noise.dtype, condition, neg_condition, guidance_scale or 1.0)
        method = self.method or METHODS[self.kind][0]
        with sampling(self.network):
            if method in ("heun", "euler"):
                run = sample_heun if method == "heun" else sample_euler
                x = run(model, x, times, callback=callback, disable=True)
            else:
                x = self._jumps(model, x, times, method == "renoise", Noise(generator), callback)
        return x.to(noise.dtype)

    def _grid(self, num_steps: int | None) -> list[float]:
        if self.times is not None:
            if num_steps not in (None, len(self.times) - 1):
                raise ValueError(
                    f"num_steps={num_steps}, but times has {len(self.times) - 1} steps"
                )
            return list(self.times)
        steps = num_steps or (18 if self.kind == "denoiser" else 1)
        if num_steps is not None and num_steps < 1:
            raise ValueError(f"num_steps is {num_steps}; it must be at least 1")
        if self.time == "flow":
            return torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
        levels = [SIGMA_MAX] if steps == 1 else karras_sigmas(steps).tolist()
        return [*levels, 0.0]

    def _model(self, dtype: torch.dtype, condition: Any, negative: Any, scale: float) -> HostModel:
        def image(x: Tensor, t: Tensor, condition: Any, **options: Any) -> Tensor:
            clock = t.float() if dtype in (torch.float16, torch.bfloat16) else t
            options = {name: r.to(clock.dtype) for name, r in options.items()}
            return self.network(x.to(dtype), clock, condition, fwd_pred_type="x0", **options).to(
                x.dtype
            )

        def predicted(x: Tensor, t: Tensor, **options: Any) -> Tensor:
            own = image(x, t, condition, **options)
            if scale == 1:
                return own
            return image(x, t, negative, **options).lerp(own, scale)

        def jump(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
            options = {"r": r} if self.kind == "trajectory" else {}
            keep = (r / t).reshape(-1, *[1] * (x.ndim - 1))
            return torch.lerp(predicted(x, t, **options), x, keep)

        return HostModel(predicted, "trajectory", jump=jump)

    def _jumps(
        self,
        model: HostModel,
        x: Tensor,
        times: list[float],
        renoise: bool,
        noise: Noise,
        callback: Callback | None,
    ) -> Tensor:
        # Not `sample_jumps`: these end at 0, and in flow time noise shrinks the image.
        for i, (t, t_next) in enumerate(pairwise(times)):
            end = 0.0 if renoise else t_next
            landed = model.jump(x, _per_image(x, t), _per_image(x, end))
            if callback is not None:
                here = x.new_full((), t)
                callback(report(x, i, here, here, landed))
            x = landed
            if renoise and t_next > 0:
                keep = 1 - t_next if self.time == "flow" else 1.0
                x = keep * x + t_next * noise.randn_like(x)
        return x


def _per_image(x: Tensor, t: float) -> Tensor:
    return x.new_full((len(x),), t)
