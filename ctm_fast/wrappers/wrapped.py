"""`Wrapped`: a `Denoiser` around a callable of another codebase."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser, per_sample
from .calling import Call, module_of
from .outputs import Convention, State
from .times import Time


class Callee(nn.Module):
    """A callable in the form of our networks: callee(y, t, s, labels) -> answer.

    Args:
        net: the callable; a module, or the module that it is a method of, is registered.
        call: how it is called.
        two_times: whether it takes a second time.
        shape: of one image, or None if nothing says it.
        label_dim: number of classes; 0 for an unconditional callable.
        one_hot: whether it wants labels as (batch, label_dim) weights rather than integers.
    """

    def __init__(
        self,
        net: Callable[..., Any],
        call: Call,
        two_times: bool = False,
        shape: tuple[int, ...] | None = None,
        label_dim: int = 0,
        one_hot: bool = False,
    ) -> None:
        super().__init__()
        self.net, self.call = net, call
        self.owner = None if isinstance(net, nn.Module) else module_of(net)
        self.has_destination = two_times
        self.shape, self.label_dim, self.one_hot = shape, label_dim, one_hot

    def forward(
        self, y: Tensor, t: Tensor, s: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Answer of the callable, shape of y.

        Args:
            y: (batch, ...) state in the callable's own scale and dtype.
            t: (batch,) its time; passed on in float32, in float64 to a float64 callable.
            s: (batch,) second time, or None.
            labels: (batch,) int64 classes, (batch, label_dim) weights, or None.

        Raises:
            ValueError: for an answer that is no tensor of y's shape, or labels that do not fit.
        """
        exact = torch.promote_types(y.dtype, torch.float32)
        second = None if s is None else s.to(exact)
        return dense(
            answer(self.call(self.net, y, t.to(exact), second, self._labels(labels, y)), y)
        )

    def _labels(self, labels: Tensor | None, y: Tensor) -> Tensor | None:
        if labels is None:
            return None
        if self.label_dim == 0:
            raise ValueError("labels for an unconditional callable; wrap it with label_dim=")
        if not self.one_hot:
            if labels.ndim != 1 or labels.is_floating_point():
                raise ValueError(
                    f"labels are {tuple(labels.shape)} {labels.dtype}, and the callable takes "
                    "integers; for weights of the classes wrap it with labels='onehot'"
                )
            return labels
        if labels.ndim == 1 and not labels.is_floating_point():
            labels = nn.functional.one_hot(labels.long(), self.label_dim)
        if labels.shape != (len(y), self.label_dim):
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}; need ({len(y)}, {self.label_dim})"
            )
        return labels.to(y.dtype)


def answer(out: Any, y: Tensor) -> Tensor:
    """The tensor in a network's output: itself, a tuple's first entry, or its `sample`.

    Of twice as many channels as y has, the first half: the others are a learned variance.

    Raises:
        ValueError: if there is none of y's shape.
    """
    if isinstance(out, (tuple, list)) and out:
        out = out[0]
    if not isinstance(out, Tensor):
        out = getattr(out, "sample", out)
    if not isinstance(out, Tensor):
        raise ValueError(f"the callable answered with a {type(out).__name__}, not with a tensor")
    if out.ndim == y.ndim > 1 and out.shape[1] == 2 * y.shape[1]:
        out = out[:, : y.shape[1]]
    if out.shape != y.shape:
        raise ValueError(
            f"the callable answered with shape {tuple(out.shape)} to {tuple(y.shape)}; they must "
            "be the same"
        )
    return out


def dense(image: Tensor) -> Tensor:
    """The image without gaps in memory, its order of dimensions kept where it is usual."""
    last = image.ndim == 4 and image.is_contiguous(memory_format=torch.channels_last)
    return image if last else image.contiguous()


class Wrapped(Denoiser):
    """`Denoiser` whose network is any callable; see `wrap`, which makes it.

    Args:
        net: the callable.
        precond: its conventions.
        kind: "denoiser", "consistency" or "trajectory".
        sigma_min: smallest noise level that it is asked for, > 0.
        sigma_max: largest one.
        dtype: as in `Denoiser`.
        time: the host's time, where its own solvers take steps of equal length; else None.
        ode_range: smallest and largest level of an ODE sampler, (sigma_min, sigma_max) if None.
        taken: one sentence on what the callable was taken for.

    Raises:
        ValueError: as `Denoiser`.
    """

    net: Callee

    def __init__(
        self,
        net: Callee,
        precond: Any,
        *,
        kind: str,
        sigma_min: float,
        sigma_max: float,
        dtype: torch.dtype | None = None,
        time: Time | None = None,
        ode_range: tuple[float, float] | None = None,
        taken: str = "",
    ) -> None:
        super().__init__(
            net, precond, kind=kind, sigma_min=sigma_min, sigma_max=sigma_max, dtype=dtype
        )
        self.time, self.taken, self.notes = time, taken, (taken,)
        self.ode_range = ode_range or (self.sigma_min, self.sigma_max)

    def forward(
        self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None, **extra: Any
    ) -> Tensor:
        """E[image | x], see `Denoiser.forward`.

        Of a function G(x, t, s) it is x - t dG/ds at s = t, by forward-mode differentiation.

        Raises:
            ValueError: if that function cannot be differentiated.
        """
        convention = self.precond
        if not isinstance(convention, Convention) or not isinstance(convention.output, State):
            return super().forward(x, sigma, labels, **extra)
        levels = per_sample(sigma, x)

        def landed(sigma_to: Tensor) -> Tensor:
            scale = convention.time.scale(sigma_to).reshape(-1, *[1] * (x.ndim - 1))
            return self.network(x, levels, sigma_to, labels).to(x.dtype) / scale

        learns = torch.is_grad_enabled()
        try:
            # In inference mode torch 2.11 gives tangents of 0, without a word.
            with torch.inference_mode(False), torch.set_grad_enabled(learns):
                one = torch.ones_like(levels)
                slope = torch.func.jvp(landed, (levels.clone(),), (one,))[1]
        except (NotImplementedError, RuntimeError) as error:
            raise ValueError(
                "this trajectory function cannot be differentiated, so it cannot denoise; use a "
                f"method that jumps ({error})"
            ) from error
        return x - levels.reshape(-1, *[1] * (x.ndim - 1)) * slope

    def _input_dtype(self) -> torch.dtype | None:
        # A frozen network of another code base takes and gives images in its original's dtype.
        like = getattr(self.net.net, "like", None)
        return like.dtype if isinstance(like, Tensor) else super()._input_dtype()

    def even_sigmas(self, steps: int) -> Tensor | None:
        """Levels of `steps` equal steps in the host's time, (steps + 1,) float64, decreasing.

        None for a host that spaces its steps otherwise.
        """
        if self.time is None:
            return None
        ends = torch.tensor([self.sigma_max, self.sigma_min], dtype=torch.float64)
        first, last = self.time.time(ends)
        levels = self.time.sigma(torch.lerp(first, last, torch.linspace(0, 1, steps + 1).double()))
        levels[0], levels[-1] = ends
        return levels

    @property
    def img_shape(self) -> tuple[int, ...] | None:
        """Shape of one image, or None if nothing said it."""
        return self.net.shape

    @property
    def img_channels(self) -> int:
        """Channels of an image."""
        return self._known_shape()[0]

    @property
    def img_resolution(self) -> int:
        """Height of an image, in pixels."""
        return self._known_shape()[-2]

    def _known_shape(self) -> tuple[int, ...]:
        if self.net.shape is None or len(self.net.shape) != 3:
            raise ValueError(f"shape is {self.net.shape}; wrap the callable with shape=(C, H, W)")
        return self.net.shape

    def extra_repr(self) -> str:
        """What the callable was taken for."""
        return self.taken
