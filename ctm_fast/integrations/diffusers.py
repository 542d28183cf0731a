"""diffusers: `CTMScheduler`, with `CTMModel` and `CTMPipeline` from the files beside it.

Folders written by `save_pretrained` name the defining modules: import this one before
`from_pretrained`. diffusers looks for its own base classes in the module that it is told.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..denoiser import KINDS
from ..precond import Preconditioning
from ..sampler.jumps import as_state
from ._diffusers_extra import (
    BaseOutput,
    ConfigMixin,
    SchedulerMixin,
    randn_tensor,
    register_to_config,
)
from ._diffusers_steps import (
    default_preconditioning,
    one_time_input,
    one_time_landing,
    one_time_std,
    two_times_input,
    two_times_landing,
)
from .diffusers_levels import (
    SPACINGS,
    Grid,
    Schedule,
    check_choice,
    level_of,
    resolved_gamma,
    time_to_sigma,
    times_of,
)
from .diffusers_model import CTMModel as CTMModel


def __getattr__(name: str) -> Any:
    if name == "CTMPipeline":  # its file needs the classes of this one
        from .diffusers_pipeline import CTMPipeline

        return CTMPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass
class CTMSchedulerOutput(BaseOutput):
    """What a step of `CTMScheduler` gives."""

    prev_sample: Tensor  # input of the next step
    denoised: Tensor | None = None  # where the jump landed, before noise was added


class CTMScheduler(SchedulerMixin, ConfigMixin):
    """Two-time scheduler of consistency (trajectory) models.

    Step i jumps from `timesteps[i]` to `s_timesteps[i]` and adds noise up to the next level, which
    is CTM's gamma-sampling. A network with one time lands on sigma_min only; it is sampled as
    diffusers' CMStochasticIterativeScheduler does it, from the same configuration. Times are
    t = 250 ln(sigma), float64, and the network's output is F, before the boundary scalings.

    Args:
        num_train_timesteps: levels of the grid that custom timesteps count in, >= 2.
        sigma_min: smallest noise level, > 0; every run ends there.
        sigma_max: largest one, and the scale of the first latents.
        sigma_data: standard deviation of the training data, > 0.
        s_noise: factor on added noise.
        rho: spacing of the Karras levels, > 0.
        clip_denoised: clamp what lands on sigma_min to [-1, 1].
        gamma: share of fresh noise per step in [0, 1]: 0 deterministic jumps, 1 the consistency
            models' sampler. None: 1, or 0 for kind="trajectory".
        kind: "consistency" (one time) or "trajectory" (two). None: trajectory if gamma < 1, or in
            a step that is given `s_timestep`.
        preconditioning: JSON of a `Preconditioning`. None: the consistency models' boundary
            scalings for one time; EDM's inside CTM's (Eq. 5) for two.
        timestep_spacing: "leading" (the consistency models' scheduler) or "linspace" (evenly
            spaced Karras levels, as `Sampler`). None: leading for one time, linspace for two.

    Raises:
        ValueError: for values outside their range or that contradict each other.

    Source: Kim et al. 2024, Algorithm 2; Song et al. 2023, Algorithm 1.
    """

    _compatibles = ["CMStochasticIterativeScheduler"]  # noqa: RUF012, diffusers' own form
    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 40,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        sigma_data: float = 0.5,
        s_noise: float = 1.0,
        rho: float = 7.0,
        clip_denoised: bool = True,
        gamma: float | None = None,
        kind: str | None = None,
        preconditioning: dict[str, Any] | None = None,
        timestep_spacing: str | None = None,
    ) -> None:
        check_choice("kind", kind, (None, *KINDS[1:]))
        check_choice("timestep_spacing", timestep_spacing, (None, *SPACINGS))
        if not sigma_data > 0:
            raise ValueError(f"sigma_data must be positive, got {sigma_data}")
        self.init_noise_sigma = sigma_max
        self.num_inference_steps: int | None = None
        self._step_index: int | None
        self._begin_index: int | None
        self._grid = Grid(num_train_timesteps, sigma_min, sigma_max, rho)
        if (assumed := self.preconditioning().sigma_data) != sigma_data:
            raise ValueError(f"sigma_data is {sigma_data}, the preconditioning assumes {assumed}")
        everything = [*self._grid.levels(num_train_timesteps), sigma_min]
        self._set(everything, resolved_gamma(kind, gamma), None)

    @property
    def kind(self) -> str:
        """Kind of network in the current run, "consistency" or "trajectory"."""
        if self.config.kind is not None:
            return self.config.kind
        return "trajectory" if self._schedule.gamma < 1 else "consistency"

    @property
    def step_index(self) -> int | None:
        """Index of the current step, None before the first; results do not depend on it."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """What `set_begin_index` was told since the levels were chosen."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Accepted from hosts that start in mid-schedule; the timesteps they pass say as much."""
        self._begin_index = begin_index

    def preconditioning(self, kind: str | None = None) -> Preconditioning:
        """How a network's output F becomes an image, for `kind` or the scheduler's own."""
        config = self.config
        if config.preconditioning is not None:
            return Preconditioning.from_json(config.preconditioning)
        kind = kind or config.kind or "consistency"
        return default_preconditioning(kind, config.sigma_data, config.sigma_min)

    sigma_to_t = staticmethod(times_of)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Iterable[int] | None = None,
        sigmas: Iterable[float] | Tensor | None = None,
        gamma: float | None = None,
    ) -> None:
        """Choose the levels of a run: `timesteps`, `s_timesteps` and `sigmas`.

        Args:
            num_inference_steps: steps, >= 1.
            device: of the two time tensors; `sigmas` stays on the CPU.
            timesteps: descending indices of the grid instead, as the consistency pipeline takes
                them: [22, 0] starts at sigma_max.
            sigmas: own decreasing levels instead; sigma_min is appended where it is missing.
            gamma: of this run, instead of the configured one.

        Raises:
            ValueError: unless exactly one of the three is given and has allowed values.
        """
        given = sum(x is not None for x in (num_inference_steps, timesteps, sigmas))
        if given != 1:
            raise ValueError(f"give one of num_inference_steps, timesteps and sigmas, not {given}")
        config = self.config
        gamma = resolved_gamma(config.kind, config.gamma if gamma is None else gamma)
        if num_inference_steps is not None:
            spacing = config.timestep_spacing or SPACINGS[config.kind == "trajectory" or gamma < 1]
            levels = self._grid.steps(num_inference_steps, spacing)
        elif timesteps is not None:
            levels = self._grid.indexed(timesteps)
        else:
            levels = self._grid.given(sigmas)  # type: ignore[arg-type]
        self.num_inference_steps = len(levels) - 1
        self._set(levels, gamma, device)

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor) -> Tensor:
        """What the network is given: c_in(sigma) sample, shape and dtype of `sample`.

        Args:
            sample: (batch, ...) noisy images.
            timestep: entry of `timesteps`, or any other time 250 ln(sigma).

        Raises:
            ValueError: for an integer or a tensor with more than one entry.
        """
        sigma = self._level("timestep", timestep)
        self._step_index = self._schedule.position(sigma)
        if self.kind == "consistency" and self.config.preconditioning is None:
            return one_time_input(sample, sigma, self.config.sigma_data)
        return two_times_input(sample, sigma, self.preconditioning(self.kind))

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        s_timestep: float | Tensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        *,
        r_timestep: float | Tensor | None = None,
    ) -> CTMSchedulerOutput | tuple[Tensor, ...]:
        """One jump, and noise up to the next level; images have the shape and dtype of `sample`.

        Args:
            model_output: (batch, ...) the network's F at c_in sample, t and, if it takes two, s.
            timestep: t, entry of `timesteps`, or any other time 250 ln(sigma).
            sample: (batch, ...) noisy images at t.
            s_timestep: s, what the network was told to jump to; by default the entry of
                `s_timesteps`. Noise is added if gamma > 0 and s is below the next level.
            generator: draws the noise; a list has one per image.
            return_dict: False gives the tuple (prev_sample, denoised).
            r_timestep: another name of `s_timestep`.

        Raises:
            ValueError: for integer times, times outside the range, s above t, or a destination
                that a one-time network cannot reach.
        """
        if s_timestep is not None and r_timestep is not None:
            raise ValueError("s_timestep and r_timestep are one thing; give one of them")
        told = r_timestep if s_timestep is None else s_timestep
        sigma = self._level("timestep", timestep)
        landing, following = self._schedule.following(sigma)
        two_times = self.kind == "trajectory" or (self.config.kind is None and told is not None)
        if told is not None:
            landing = self._level("s_timestep", told)
        low = self._schedule.levels[-1]
        if landing > sigma or (landing != low and not two_times):
            allowed = "lower ones" if two_times else f"{low} only"
            raise ValueError(
                f"s_timestep is the noise level {landing:.6g}; this {self.kind} network jumps "
                f"from {sigma:.6g} to {allowed}"
            )
        state = as_state(sample)
        std: Tensor | float = self._schedule.std(landing, following)
        if two_times:
            precond = self.preconditioning("trajectory")
            landed = two_times_landing(state, model_output, sigma, landing, precond)
        else:
            precond = self.preconditioning("consistency")
            landed = one_time_landing(state, model_output, sigma, precond)
            # Drawn in the last of several steps too, as one generator may serve several runs.
            std = one_time_std(following, low) if len(self._schedule.levels) > 2 else 0.0
        if self.config.clip_denoised and landing == low:
            landed = landed.clamp(-1, 1)
        after = landed
        if isinstance(std, Tensor) or std > 0:
            like = {"device": model_output.device, "dtype": model_output.dtype}
            noise = randn_tensor(sample.shape, generator=generator, **like)
            after = landed + noise.to(landed.dtype) * self.config.s_noise * std
        self._step_index = self._schedule.position(sigma) + 1
        both = after.to(sample.dtype), landed.to(sample.dtype)
        return CTMSchedulerOutput(*both) if return_dict else both

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """original_samples + sigma noise, with one floating time per image or one for all."""
        if not timesteps.is_floating_point():
            raise ValueError(f"timesteps are {timesteps.dtype}; pass entries of self.timesteps")
        sigma = time_to_sigma(timesteps.to(original_samples.device)).to(original_samples.dtype)
        return original_samples + noise * sigma.reshape(-1, *[1] * (original_samples.ndim - 1))

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    def _set(self, levels: list[float], gamma: float, device: str | torch.device | None) -> None:
        self._schedule = Schedule(tuple(levels), gamma)
        self._landings = self._schedule.landings
        wide = torch.float32 if str(device).startswith("mps") else torch.float64
        self.sigmas = torch.tensor(levels, dtype=torch.float64)
        self.timesteps = times_of(self.sigmas[:-1]).to(device, wide)
        self.s_timesteps = times_of(torch.tensor(self._landings, dtype=torch.float64)).to(
            device, wide
        )
        self._times = self.timesteps, self.s_timesteps
        self._step_index, self._begin_index = None, None

    def _level(self, name: str, time: Any) -> float:
        # Not the public attributes: a host may have put other tensors there.
        first = name == "timestep"
        own, levels = self._times[not first], self._schedule.levels if first else self._landings
        return self._grid.checked(name, level_of(name, time, own, levels, self._schedule))
