"""Doors of NVlabs/edm and NVlabs/edm2: an object to use as `sampler_fn`.

Karras et al. 2022, arXiv:2206.00364, Algorithm 2; Karras et al. 2024, arXiv:2406.02507 (guidance).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..sampler.jumps import Callback
from ..sampler.methods import JUMP_METHODS, ODE_METHODS, SAMPLERS
from ..sampler.ode import sample_ode
from ..sampler.options import ODE_STEPS, resolve_method
from ..sampler.step_tables import sampling_sigmas
from ..solvers import Churn, Heun
from ..solvers.churn import Noise
from .hosts import HostModel, kind_of, refuse, sampling
from .noise import EveryStep, each

KEYWORDS = (
    *("net", "latents or noise", "class_labels or labels", "gnet", "guidance", "randn_like"),
    *("num_steps", "sigma_min", "sigma_max", "rho", "S_churn", "S_min", "S_max", "S_noise"),
    *("dtype", "callback"),
)
NO_CHURN = {"S_churn": 0.0, "S_min": 0.0, "S_max": math.inf, "S_noise": 1.0}


@dataclass(frozen=True)
class RoundedChurn(Churn):
    """Churn whose raised levels are rounded to those the network knows.

    They are looked up, since rounding may wait for a GPU.
    """

    raised: Mapping[float, float] = field(default_factory=dict)  # level -> rounded raised level

    def sigma_hat(self, sigma: float) -> float:
        """Level to which `sigma` is raised."""
        return self.raised[sigma]

    @classmethod
    def on(
        cls,
        sigmas: Sequence[float],
        noise: Noise,
        round_sigma: Callable[[Tensor], Tensor] | None,
        **options: float,
    ) -> RoundedChurn:
        """Churn of a run over `sigmas`, which are rounded already and end at 0."""
        plain = Churn(noise, len(sigmas) - 1, **options)
        hats = [plain.sigma_hat(sigma) for sigma in sigmas[:-1]]
        known = zip(sigmas, hats, rounded(round_sigma, hats), strict=False)
        table = {sigma: sigma if hat == sigma else new for sigma, hat, new in known}
        return cls(noise, len(sigmas) - 1, **options, raised=table)


@dataclass(frozen=True)
class EDMSampler:
    """`sampler_fn` of EDM's generate.py and of EDM2's `generate_images`.

    The network is called as net(x, sigma, labels) and may be the host's own module or a
    `Denoiser`. A denoiser is solved by Heun's method, with churn if the host asks for it, which is
    what the host's own sampler does; a consistency or trajectory model jumps.

    What is given here is fixed; the host's keywords may repeat it but not contradict it.

    Raises:
        ValueError: for a method that the kind cannot do or a gamma outside [0, 1].
    """

    steps: int | None = None  # >= 1; None: the host's num_steps, or else 1 jump or 18 ODE steps
    kind: str | None = None  # "denoiser", "consistency", "trajectory"; None: if the net says it
    method: str | None = None  # key of SAMPLERS but "jumps"; None: the kind's default
    gamma: float = 0.0  # share of fresh noise per jump in [0, 1], method "gamma" only

    def __post_init__(self) -> None:
        if self.method == "jumps":
            raise ValueError("method 'jumps' is not for hosts; call ctm_fast.sampler.sample_jumps")
        if self.kind is not None:
            resolve_method(self.kind, self.method, self.steps, self.gamma)

    def __call__(
        self,
        net: Any,
        latents: Tensor | None = None,
        class_labels: Tensor | None = None,
        *,
        noise: Tensor | None = None,
        labels: Tensor | None = None,
        gnet: Any = None,
        randn_like: Callable[[Tensor], Tensor] = torch.randn_like,
        num_steps: int | None = None,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        guidance: float = 1.0,
        S_churn: float = 0.0,
        S_min: float = 0.0,
        S_max: float = math.inf,
        S_noise: float = 1.0,
        dtype: torch.dtype | None = None,
        callback: Callback | None = None,
        **unknown: Any,
    ) -> Tensor:
        """Images (batch, C, H, W), not clamped, in `dtype`.

        Args:
            net: called as net(x, sigma, labels); put into eval mode meanwhile.
            latents: (batch, C, H, W) noise of variance 1 (EDM's name).
            class_labels: passed to the network; integers become one-hot rows if it is not a
                `Denoiser` (EDM's name).
            noise: EDM2's name of `latents`.
            labels: EDM2's name of `class_labels`.
            gnet: guiding denoiser, used if guidance is not 1.
            randn_like: draws all noise, in the host's order; the global generator by default.
                Nothing is drawn unless the method adds noise.
            num_steps: of the solver; network jumps for a model that jumps.
            sigma_min: raised to the network's own if it has one.
            sigma_max: lowered to the network's own if it has one.
            rho: spacing of the levels.
            guidance: weight of the network against gnet; 1 is off.
            S_churn: amount of churn; S_min, S_max and S_noise as in `sample_churn`.
            S_min: lowest level with churn.
            S_max: highest level with churn.
            S_noise: standard deviation of the churn noise.
            dtype: of the state and the result; by default float64 (EDM), and float32 where the
                latents came as `noise` (EDM2).
            callback: as in `sample_heun`.
            unknown: anything else is an error.

        Raises:
            ValueError: for unknown keywords, ones that do nothing here, or bad values.
        """
        refuse("EDMSampler", unknown, KEYWORDS)
        if (latents is None) == (noise is None):
            raise ValueError("give the unit noise once: latents (EDM) or noise (EDM2)")
        if class_labels is not None and labels is not None:
            raise ValueError("give the labels once: class_labels (EDM) or labels (EDM2)")
        start = latents if latents is not None else noise
        assert start is not None
        dtype = dtype or (torch.float64 if noise is None else torch.float32)
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype is {dtype}; need torch.float32 or torch.float64")
        kind = kind_of(net, self.kind)
        steps = self._steps(num_steps)
        method = resolve_method(kind, self.method, steps, self.gamma)
        churn = dict(S_churn=S_churn, S_min=S_min, S_max=S_max, S_noise=S_noise)
        if method not in ("heun", "churn") and churn != NO_CHURN:
            given = {name: value for name, value in churn.items() if value != NO_CHURN[name]}
            raise ValueError(f"{given} with method {method!r}: churn belongs to 'heun'")
        if method == "churn" and S_churn == 0:
            # Churn was asked for here, and the host did not say how much: our defaults.
            said = {name: value for name, value in churn.items() if value != NO_CHURN[name]}
            churn = {name: getattr(Churn, name) for name in churn} | said
        low, high = clamped(net, sigma_min, sigma_max)
        if steps is None:
            steps = ODE_STEPS if method in ODE_METHODS else 1
        rounding = getattr(net, "round_sigma", None)
        sigmas = rounded(rounding, sampling_sigmas(method, steps, low, high, rho, kind).tolist())
        model = _model(net, kind, sigmas, _guided(net, gnet, guidance, kind))
        classes = class_labels if class_labels is not None else labels
        extra = {} if classes is None else {"labels": _one_hot(classes, net)}
        x = start.to(dtype) * sigmas[0]
        with sampling(net, gnet):
            if method not in JUMP_METHODS and churn["S_churn"] > 0:
                draw = EveryStep(randn_like, x, sigmas)
                levels = torch.tensor(sigmas, dtype=torch.float64)

                def unit(i: int) -> Tensor:
                    return draw(levels[i], levels[i + 1])

                perturb = RoundedChurn.on(sigmas, unit, rounding, **churn)
                return sample_ode(Heun(), model, x, sigmas, extra, callback, True, perturb)
            options: dict[str, Any] = {"noise_sampler": each(randn_like, x)}
            if method == "gamma":
                options["gamma"] = self.gamma
            name = "heun" if method == "churn" else method
            return SAMPLERS[name](model, x, sigmas, extra, callback, True, **options)

    def _steps(self, num_steps: int | None) -> int | None:
        if None not in (self.steps, num_steps) and self.steps != num_steps:
            raise ValueError(
                f"the host asks for num_steps={num_steps}, but this sampler has steps="
                f"{self.steps}; give the host the same number (EDM's generate.py: --steps="
                f"{self.steps}), or leave steps out here"
            )
        return num_steps if self.steps is None else self.steps


def clamped(net: Any, sigma_min: float, sigma_max: float) -> tuple[float, float]:
    """The host's range cut to what the network knows, if it says so."""
    low, high = getattr(net, "sigma_min", sigma_min), getattr(net, "sigma_max", sigma_max)
    return max(float(sigma_min), float(low)), min(float(sigma_max), float(high))


def rounded(round_sigma: Callable[[Tensor], Tensor] | None, sigmas: Iterable[float]) -> list[float]:
    """Levels rounded to those that a network of discrete levels knows; a 0 stays."""
    levels = list(sigmas)
    if round_sigma is None:
        return levels
    known = round_sigma(torch.tensor(levels, dtype=torch.float64)).tolist()
    return [new if old > 0 else 0.0 for old, new in zip(levels, known, strict=True)]


def _model(net: Any, kind: str, sigmas: list[float], denoise: Callable[..., Tensor]) -> Any:
    if isinstance(net, Denoiser) and net.kind == kind and (kind != "denoiser" or denoise is net):
        return net
    jump = None if kind != "trajectory" else _jump(net)
    return HostModel(denoise, kind, sigmas[-1], jump)


def _jump(net: Any) -> Callable[..., Tensor]:
    def jump(x: Tensor, sigma: Tensor, sigma_to: Tensor, labels: Any = None) -> Tensor:
        return net.jump(x, sigma, sigma_to, labels)

    return jump


def _guided(net: Any, gnet: Any, guidance: float, kind: str) -> Callable[..., Tensor]:
    """net(x, sigma, labels), or what the guiding network gnet says moved towards and past it."""
    if guidance == 1:
        if isinstance(net, Denoiser) and net.kind == "denoiser":
            return net
        return lambda x, sigma, labels=None: net(x, sigma, labels)
    if gnet is None or kind != "denoiser":
        raise ValueError(
            f"guidance={guidance} needs a guiding network gnet and a denoiser, got gnet={gnet!r} "
            f"and kind {kind!r}"
        )

    def denoise(x: Tensor, sigma: Tensor, labels: Any = None) -> Tensor:
        own = net(x, sigma, labels).to(x.dtype)
        weak = gnet(x, sigma, None if getattr(gnet, "label_dim", 1) == 0 else labels)
        return weak.to(x.dtype).lerp(own, guidance)

    return denoise


def _one_hot(labels: Tensor, net: Any) -> Tensor:
    """Labels as the network takes them; EDM's own modules take (batch, label_dim) only."""
    if isinstance(net, Denoiser) or labels.is_floating_point() or labels.ndim != 1:
        return labels
    classes = int(getattr(net, "label_dim", 0))
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels {labels.tolist()} are outside [0, {classes})")
    return torch.nn.functional.one_hot(labels.long(), classes).to(torch.float32)
