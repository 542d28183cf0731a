"""What a callable answers, as coefficients of the state and of the answer.

Legend: D is E[x0 | x] or a consistency function, y the host's state at time t, u a velocity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from .times import Coefficients, Time, VelocityTime


class Output(Protocol):
    """D = P x + Q F and the jump P x + Q F, for an answer F."""

    def unit(self, time: Time) -> float:
        """Number that the callable's input is divided by."""
        ...

    def denoise(self, time: Time, sigma: Tensor) -> Coefficients:
        """(P, Q) of D."""
        ...

    def jump(self, time: Time, sigma: Tensor, sigma_to: Tensor) -> Coefficients:
        """(P, Q) of the jump."""
        ...


class Jumpless:
    """An answer about the image alone; a consistency model's jump is its D."""

    def unit(self, time: Time) -> float:
        """1."""
        return 1.0

    def jump(self, time: Time, sigma: Tensor, sigma_to: Tensor) -> Coefficients:
        """Never asked for: `Denoiser` refuses or takes D."""
        raise NotImplementedError


@dataclass(frozen=True)
class Image(Jumpless):
    """D itself."""

    def denoise(self, time: Time, sigma: Tensor) -> Coefficients:
        """(0, 1)."""
        return torch.zeros_like(sigma), torch.ones_like(sigma)


@dataclass(frozen=True)
class Epsilon(Jumpless):
    """The unit noise: D = x - sigma eps."""

    def denoise(self, time: Time, sigma: Tensor) -> Coefficients:
        """(1, -sigma)."""
        return torch.ones_like(sigma), -sigma


@dataclass(frozen=True)
class VPrediction(Jumpless):
    """v = (n - sigma x0)/sqrt(1 + sigma^2). Source: Salimans & Ho 2022, Appendix D."""

    def denoise(self, time: Time, sigma: Tensor) -> Coefficients:
        """(1/(1 + sigma^2), -sigma/sqrt(1 + sigma^2))."""
        share = 1 / (1 + sigma**2)
        return share, -sigma * share.sqrt()


@dataclass(frozen=True)
class Velocity(Jumpless):
    """u with dy/dt = unit * u; TrigFlow's F."""

    def unit(self, time: Time) -> float:
        """The time's unit."""
        return cast(VelocityTime, time).unit

    def denoise(self, time: Time, sigma: Tensor) -> Coefficients:
        """The time's own formula."""
        return cast(VelocityTime, time).velocity(sigma)


@dataclass(frozen=True)
class AverageVelocity(Velocity):
    """u(y, t, r) = (y_t - y_r)/(t - r)/unit, at r = t the velocity. Source: MeanFlow."""

    def jump(self, time: Time, sigma: Tensor, sigma_to: Tensor) -> Coefficients:
        """y_r = y_t + (r - t) unit u, divided by the scale at r."""
        flow, low = cast(VelocityTime, time), time.scale(sigma_to)
        return time.scale(sigma) / low, flow.gap(sigma, sigma_to) * flow.unit / low


@dataclass(frozen=True)
class Rotation(Velocity):
    """TrigFlow's flow map: y_s = cos(t - s) y_t - sin(t - s) sd F(y/sd, t, s)."""

    def jump(self, time: Time, sigma: Tensor, sigma_to: Tensor) -> Coefficients:
        """Divided by the scale at s."""
        flow, low = cast(VelocityTime, time), time.scale(sigma_to)
        turn = flow.gap(sigma, sigma_to)
        return turn.cos() * time.scale(sigma) / low, turn.sin() * flow.unit / low


@dataclass(frozen=True)
class State(Jumpless):
    """The host's state y_s itself."""

    def denoise(self, time: Time, sigma: Tensor) -> Coefficients:
        """None exist: `Wrapped` takes the derivative of the jump."""
        raise NotImplementedError

    def jump(self, time: Time, sigma: Tensor, sigma_to: Tensor) -> Coefficients:
        """(0, 1/scale(s))."""
        return torch.zeros_like(sigma), 1 / time.scale(sigma_to)


OUTPUTS: dict[str, Output] = {
    "image": Image(),
    "epsilon": Epsilon(),
    "v": VPrediction(),
    "F": Velocity(),
}
ALIASES = {"sample": "image", "v_prediction": "v"}  # what diffusers calls them


@dataclass(frozen=True)
class Convention:
    """A host's time and answer in the form of a `Preconditioning`."""

    time: Time
    output: Output
    sigma_data: float = 0.5  # standard deviation of the training data, > 0

    def c_in(self, sigma: Tensor) -> Tensor:
        """Callable's input / x, shape of `sigma`."""
        return self.time.scale(sigma) / self.output.unit(self.time)

    def c_noise(self, sigma: Tensor) -> Tensor:
        """The host's time, shape of `sigma`."""
        return self.time.time(sigma)

    def c_noise_to(self, told: Tensor, told_to: Tensor) -> Tensor:
        """The host's time of the destination, given the times of both levels."""
        return told_to

    def denoise_coefficients(self, sigma: Tensor) -> Coefficients:
        """(P, Q) with D = P x + Q F, shape of `sigma`."""
        return self.output.denoise(self.time, sigma)

    def jump_coefficients(self, sigma: Tensor, sigma_to: Tensor) -> Coefficients:
        """(P, Q) with G(x, t, s) = P x + Q F, shape of `sigma`."""
        return self.output.jump(self.time, sigma, sigma_to)

    def to_json(self) -> dict[str, Any]:
        """Has none.

        Raises:
            ValueError: always.
        """
        raise ValueError("a wrapped callable cannot be saved; only a Denoiser of our networks can")
