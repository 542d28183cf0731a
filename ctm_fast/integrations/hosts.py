"""What the doors share: a host's network as the samplers call it, its kind, and refusals."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..denoiser import KINDS
from ..sampler.engine import evaluating
from ..wrappers.known import EDM_KINDS, host_class

logger = logging.getLogger("ctm_fast")


class HostModel:
    """A host's network with the two calls that the samplers make.

    Args:
        denoise: called as denoise(x, sigma, **extra), sigma (batch,); returns denoised images, or
            for a consistency model its images at `sigma_min`.
        kind: "denoiser", "consistency" or "trajectory".
        sigma_min: where a consistency model's jumps end.
        jump: called as jump(x, sigma, sigma_to, **extra); trajectory models only.
    """

    def __init__(
        self,
        denoise: Callable[..., Tensor],
        kind: str = "denoiser",
        sigma_min: float = 0.0,
        jump: Callable[..., Tensor] | None = None,
    ) -> None:
        self.denoise, self.kind, self.sigma_min, self._jump = denoise, kind, sigma_min, jump

    def __call__(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        """Denoised images, shape and dtype of x."""
        return self.denoise(x, sigma, **extra).to(x.dtype)

    def jump(self, x: Tensor, sigma: Tensor, sigma_to: Tensor, **extra: Any) -> Tensor:
        """Images at `sigma_to`, shape and dtype of x.

        Raises:
            ValueError: if the model only denoises.
        """
        if self.kind == "consistency":
            return self(x, sigma, **extra)
        if self._jump is None:
            raise ValueError(f"a model of kind {self.kind!r} cannot jump")
        return self._jump(x, sigma, sigma_to, **extra).to(x.dtype)


def kind_of(net: Any, kind: str | None = None) -> str:
    """What a host's network is: the given kind, or the one that it says itself.

    A trajectory model may be used as any other kind, since it also denoises and jumps to the end.

    Raises:
        ValueError: for an unknown kind, one that contradicts the network, or a network that does
            not say and nothing was given.
    """
    name = host_class(net)
    own = getattr(net, "kind", None)
    said = own if own in KINDS else EDM_KINDS.get(name)
    if kind is None:
        if said is None:
            raise ValueError(
                f"what a {name} is cannot be seen; say kind='denoiser', 'consistency' (jumps to "
                "the end in one call) or 'trajectory' (has .jump(x, sigma, sigma_to, labels))"
            )
        if own is None:
            logger.info("took the network (%s) for a %s", name, said)
        return said
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; choose from {KINDS}")
    if own in KINDS and own not in (kind, "trajectory"):
        raise ValueError(f"kind={kind!r} for a network that says it is of kind {own!r}")
    if kind == "trajectory" and not hasattr(net, "jump"):
        raise ValueError(
            f"kind='trajectory' needs a network with .jump(x, sigma, sigma_to, labels), and this "
            f"{name} has none; load it with ctm_fast.load, or give ctm_fast.wrappers.wrap(net, "
            "kind='trajectory', time=...)"
        )
    return kind


def refuse(host: str, unknown: Mapping[str, Any], allowed: Iterable[str]) -> None:
    """Raise ValueError if keywords are left that nothing reads."""
    if unknown:
        names = ", ".join(f"{name}={value!r}" for name, value in unknown.items())
        raise ValueError(f"{host} does not take {names}; it takes {', '.join(allowed)}")


@contextlib.contextmanager
def sampling(*models: Any) -> Iterator[None]:
    """Models in eval mode, no gradients; afterwards every module has its previous mode again."""
    with contextlib.ExitStack() as stack:
        for model in models:
            stack.enter_context(evaluating(model))
        # Not inference_mode: a host may train on what it gets back.
        stack.enter_context(torch.no_grad())
        yield
