"""`Sampler`: the front door, from a model and a seed to images."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import checked_labels, checked_noise, image_shape, number_of_images
from .jumps import Callback
from .methods import SAMPLERS
from .options import resolve_churn, resolve_landings, resolve_method, resolve_sigmas
from .seeding import INITIAL, SeededNoise, as_seeds, noise_for

COMPUTE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CHURN = ("S_churn", "S_min", "S_max", "S_noise")
STATE_DTYPES = (torch.float32, torch.float64)


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Images from noise: `sampler(64, seed=0)`.

    All options are fixed here, checked here and printed by `repr`; the object can be pickled and
    copied. Every image has its own random stream, so neither the batch size nor the position of
    an image in the batch matters to its noise.

    Raises:
        ValueError: for options outside their range, options that the method does not use, levels
            outside the network's range, or a method that this kind of model cannot do.

    Source: CTM, Section 4; Karras et al. 2022, Algorithms 1 and 2; Song et al. 2023, Algorithm 1.
    """

    model: Any  # a Denoiser, or anything with its methods and attributes
    steps: int | None = None  # >= 1; by default 1 for methods that jump and 18 for ODE methods
    method: str | None = None  # key of SAMPLERS; by default what the model's kind allows
    gamma: float = 0.0  # share of fresh noise per step in [0, 1], method "gamma" only
    sigmas: Any = None  # own noise levels, decreasing, instead of `steps`; read back as a tuple
    landings: Any = None  # levels jumped to, method "jumps" only; read back as a tuple
    rho: float = 7.0  # spacing of the Karras levels, > 0
    S_churn: float | None = None  # amount of EDM churn, method "churn" only; default 40
    S_min: float | None = None  # smallest level that is churned; default 0.05
    S_max: float | None = None  # largest level that is churned; default 50
    S_noise: float | None = None  # scale of the churn noise; default 1.003
    clip: bool = True  # clamp the finished images to [-1, 1]
    dtype: torch.dtype | None = None  # the network computes in it; None: as the model says
    state_dtype: torch.dtype = torch.float32  # dtype of x between network calls and of the images
    latents: str = "scaled"  # what `noise=` is: "scaled" by sigmas[0] already, or "unit"
    batch_size: int | None = None  # images per network call; None: all at once
    noise_device: str = "cpu"  # "cpu": same noise on every machine; "model": drawn beside the model
    progress: bool = False  # show a bar

    def __post_init__(self) -> None:
        missing = [n for n in ("kind", "sigma_min", "sigma_max") if not hasattr(self.model, n)]
        if missing:
            raise ValueError(
                f"the model ({type(self.model).__name__}) has no {missing}; wrap it in a Denoiser"
            )
        if not math.isfinite(self.rho) or self.rho <= 0:
            raise ValueError(f"rho is {self.rho}; it must be positive")
        _choice("latents", self.latents, ("scaled", "unit"))
        _choice("noise_device", self.noise_device, ("cpu", "model"))
        _choice("state_dtype", self.state_dtype, STATE_DTYPES)
        _choice("dtype", self.dtype, (None, *COMPUTE_DTYPES))
        if self.dtype is not None and not hasattr(self.model, "dtype"):
            raise ValueError(f"dtype={self.dtype} needs a model with a dtype attribute (Denoiser)")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma is {self.gamma}; it must lie in [0, 1]")
        method = resolve_method(self.model.kind, self.method, self.steps, self.gamma)
        levels = resolve_sigmas(self.model, method, self.steps, self.sigmas, self.rho)
        landings = resolve_landings(self.model, method, levels, self.gamma, self.landings)
        churn = resolve_churn(method, {name: getattr(self, name) for name in CHURN})
        own = tuple(landings) if landings is not None and method == "jumps" else None
        steps = len(levels) - 1
        resolved = dict(method=method, steps=steps, sigmas=tuple(levels), landings=own, **churn)
        for name, value in resolved.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        options = ", ".join(
            f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self)[1:]
        )
        return f"Sampler({type(self.model).__name__} of kind {self.model.kind!r}, {options})"

    @property
    def nfe(self) -> int:
        """Network calls per image."""
        assert self.steps is not None
        if self.method in ("heun", "churn"):
            return 2 * self.steps - (self.sigmas[-1] == 0)
        return self.steps

    def __call__(
        self,
        num: int | None = None,
        *,
        labels: Tensor | Iterable[int] | int | None = None,
        seed: int | Iterable[int] = 0,
        noise: Tensor | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Images (num, C, H, W) in `state_dtype`, in [-1, 1] if `clip`, on the model's device.

        Args:
            num: how many; may be left out where labels, seed or noise say it.
            labels: (num,) integers in [0, model.label_dim), or one for all. A conditional model
                without labels makes the classes 0, 1, 2, ... in turn.
            seed: of the run; image k then uses `image_seeds(seed, num)[k]`. Or one per image,
                which makes the same image at every position.
            noise: (num, C, H, W) first state, scaled by sigmas[0] unless `latents="unit"`; by
                default it is drawn from the seeds. Later noise always comes from the seeds.
            callback: called at every step of every batch with a dictionary with the keys x, i,
                sigma, sigma_hat and denoised.

        Raises:
            ValueError: if the arguments disagree about the number of images, or for labels or
                noise that do not fit the model.
        """
        images = self._run(num, labels, seed, noise, callback)
        return images.clamp_(-1, 1) if self.clip else images

    def trajectory(
        self,
        num: int | None = None,
        *,
        labels: Tensor | Iterable[int] | int | None = None,
        seed: int | Iterable[int] = 0,
        noise: Tensor | None = None,
    ) -> list[tuple[float, Tensor]]:
        """(sigma, x) at the start of every step and at the end, steps + 1 pairs, not clamped.

        x is (num, C, H, W) in `state_dtype`. With churn, sigma and x are those after the noise
        of the step was added. Arguments as in `__call__`.
        """
        steps: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.sigmas[1:]]

        def keep(info: dict[str, Any]) -> None:
            steps[info["i"]].append((info["sigma_hat"], info["x"]))

        final = self._run(num, labels, seed, noise, keep)
        path = []
        for batches in steps:
            path.append((float(batches[0][0]), torch.cat([x for _, x in batches])))
        return [*path, (self.sigmas[-1], final)]

    def _run(
        self,
        num: int | None,
        labels: Any,
        seed: int | Iterable[int],
        noise: Tensor | None,
        callback: Callback | None,
    ) -> Tensor:
        if isinstance(seed, Iterable) and not hasattr(seed, "__len__"):
            seed = list(seed)
        model, shape = self._model(), image_shape(self.model)
        num = number_of_images(num, labels, seed, noise)
        device = _device_of(model, noise)
        classes = checked_labels(labels, num, int(getattr(model, "label_dim", 0)))
        classes = None if classes is None else classes.to(device)
        seeds = as_seeds(seed, num)
        if noise is not None:
            noise = checked_noise(noise, num, shape).to(device)
        # Not an inference tensor, so that the images may take part in training.
        images = torch.empty(num, *shape, dtype=self.state_dtype, device=device)
        size = self.batch_size or num
        with evaluating(model), torch.inference_mode():
            for start in range(0, num, size):
                rows = slice(start, min(start + size, num))
                x = self._first(seeds[rows], None if noise is None else noise[rows], shape, device)
                extra = {} if classes is None else {"labels": classes[rows]}
                images[rows] = self._sample(model, x, seeds[rows], extra, callback)
        return images

    def _first(
        self,
        seeds: list[int],
        noise: Tensor | None,
        shape: tuple[int, ...],
        device: torch.device,
    ) -> Tensor:
        if noise is None:
            draw_on = device if self.noise_device == "model" else "cpu"
            noise = noise_for(seeds, INITIAL, shape, device, self.state_dtype, draw_on)
        elif self.latents == "scaled":
            return noise.to(self.state_dtype)
        return noise.to(self.state_dtype) * self.sigmas[0]

    def _sample(
        self,
        model: Any,
        x: Tensor,
        seeds: list[int],
        extra_args: dict[str, Any],
        callback: Callback | None,
    ) -> Tensor:
        draw_on = x.device if self.noise_device == "model" else "cpu"
        options: dict[str, Any] = {}
        if self.method == "gamma":
            options["gamma"] = self.gamma
        if self.method == "jumps":
            options["landings"] = self.landings
        if self.method == "churn":
            options |= {name: getattr(self, name) for name in CHURN}
        return SAMPLERS[str(self.method)](
            model,
            x,
            self.sigmas,
            extra_args,
            callback,
            not self.progress,
            noise_sampler=SeededNoise(seeds, self.sigmas, x, draw_on),
            **options,
        )

    def _model(self) -> Any:
        if self.dtype is None:
            return self.model
        # Shares modules and weights, so the caller's model keeps its own dtype.
        model = copy.copy(self.model)
        model.dtype = self.dtype
        return model


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Model in eval mode; every module gets its previous mode back."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _device_of(model: Any, noise: Tensor | None) -> torch.device:
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return torch.device("cpu") if noise is None else noise.device


def _choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; choose from {allowed}")
