"""One optimizer step of all weights and all their averages, in one pass over the memory.

With gradient g (after clipping and without the loss scale), decay d of an average and w a weight:

    m = beta1 m + (1 - beta1) g             v = beta2 v + (1 - beta2) g^2
    w = w - a m / (b sqrt(v) + c)           a, b, c: `Rule.factors`
    average = d average + (1 - d) w         for every average

It changes its arguments and never runs under autograd or `torch.compile`, so it is neither
registered with torch nor in `OPS`, whose ops return their results. Backends are chosen as theirs.
"""

import math
from collections.abc import Callable, Sequence

import torch

from . import _native, _triton
from . import op as _op
from ._optimizer_native import native_step
from ._optimizer_triton import triton_step
from ._optimizer_weights import CLIP_EPS, Rule, Step, Weights

__all__ = ["Rule", "Weights", "optimizer_step", "why_not"]

Tensor = torch.Tensor
Gradients = Sequence[Tensor | None]


@torch.no_grad()
def optimizer_step(
    weights: Weights,
    grads: Gradients,
    rule: Rule,
    lr: float,
    decays: Sequence[float] = (),
    *,
    norm: Tensor | None = None,
    max_norm: float | None = None,
    loss_scale: float = 1.0,
    backend: str | None = None,
) -> None:
    """Moves the weights by one step of Adam or RAdam, and their averages after them.

    On a GPU with Triton the host never waits: a norm that is not finite is found by the device.

    Args:
        weights: changed in place; a weight without a gradient stays, its averages follow.
        grads: one gradient or None per weight, in its dtype; read only.
        rule: Adam or RAdam, and its constants.
        lr: learning rate.
        decays: share of the old value that each average keeps, in [0, 1).
        norm: () norm of all gradients without the loss scale. If it is not finite nothing is
            changed at all, nor is the step counted.
        max_norm: gradients are multiplied by min(1, max_norm / (norm + 1e-6)).
        loss_scale: what the gradients are divided by, > 0.
        backend: as of an `Op`.

    Raises:
        ValueError: the arguments do not fit together.
        BackendError: the backend that was asked for cannot run this call.
    """
    _check(weights, grads, decays, norm, max_norm, loss_scale)
    backend = _op._default if backend is None else _op._checked(backend)
    if backend == "auto":
        # Triton's interpreter is for tests: it runs when asked for by name, never by itself.
        tried = [b for b in _BACKENDS if b != "triton" or not _triton.INTERPRETED]
        backend = next(b for b in tried if why_not(b, weights) is None)
    elif (reason := why_not(backend, weights)) is not None:
        raise _op.BackendError(f"optimizer_step: {reason}")
    step = Step(lr, tuple(decays), norm, max_norm, loss_scale)
    _BACKENDS[backend](weights, grads, rule, step)
    if backend in ("native", "triton"):
        # Autograd, and whoever keeps what he made of the weights, sees a write by its count.
        for row in (weights.params, *weights.averages):
            torch.autograd.graph.increment_version(row)


def why_not(backend: str, weights: Weights) -> str | None:
    """Reason why `backend` cannot run a step of these weights, or None if it can."""
    if backend == "native" and weights.steps.is_cuda:
        return "the native optimizer step runs on the CPU only"
    if backend in ("native", "triton"):
        machine = _native if backend == "native" else _triton
        return machine.why_not([weights.steps]) or weights.look()
    return None


def reference(weights: Weights, grads: Gradients, rule: Rule, step: Step) -> None:
    """The definition, weight by weight."""
    device = weights.steps.device
    good = torch.ones((), dtype=torch.bool, device=device)
    gain = torch.ones((), dtype=torch.float64, device=device) / step.loss_scale
    if step.norm is not None:
        good = step.norm.isfinite()
        if step.max_norm is not None:
            gain = gain * (step.max_norm / (step.norm.double() + CLIP_EPS)).clamp(max=1.0)
    has_grad = torch.tensor([g is not None for g in grads], device=device)
    weights.steps.add_(has_grad & good)
    factors = rule.factors(weights.steps, step.lr).to(weights.params[0].dtype)

    def change(old: Tensor, new: Tensor) -> None:
        old.copy_(torch.where(good, new, old))

    for i, (g, w) in enumerate(zip(grads, weights.params)):
        if g is not None:
            g = g * gain.to(g.dtype)
            m, v = weights.exp_avg[i], weights.exp_avg_sq[i]
            change(m, m.lerp(g, 1 - rule.beta1))
            change(v, rule.beta2 * v + (1 - rule.beta2) * g.square())
            a, b, c = factors[:, i]
            change(w, w - a * m / (b * v.sqrt() + c))
        for average, decay in zip(weights.averages, step.decays):
            change(average[i], average[i].lerp(w, 1 - decay))


def foreach_step(weights: Weights, grads: Gradients, rule: Rule, step: Step) -> None:
    """The same by PyTorch's multi-tensor operations; reads the norm and the steps on the host."""
    gain = step.gain()
    if gain is None:
        return
    weights.advance(grads)
    chosen = [i for i, g in enumerate(grads) if g is not None]
    if chosen:
        w, m, v = ([row[i] for i in chosen] for row in weights.rows[:3])
        g = [g for g in grads if g is not None]
        g = g if gain == 1 else list(torch._foreach_mul(g, gain))
        # One list of numbers per factor, for the weights that move.
        a, b, c = rule.factors(weights.steps, step.lr)[:, chosen].tolist()
        torch._foreach_lerp_(m, g, 1 - rule.beta1)
        torch._foreach_mul_(v, rule.beta2)
        torch._foreach_addcmul_(v, g, g, 1 - rule.beta2)
        below = torch._foreach_sqrt(v)
        torch._foreach_mul_(below, b)
        torch._foreach_add_(below, c)
        torch._foreach_addcdiv_(w, m, below, [-move for move in a])
    for average, decay in zip(weights.averages, step.decays):
        torch._foreach_lerp_(average, weights.params, 1 - decay)


_BACKENDS: dict[str, Callable[[Weights, Gradients, Rule, Step], None]] = {
    "triton": triton_step,
    "native": native_step,
    "torch": foreach_step,
    "reference": reference,
}


def _check(
    weights: Weights,
    grads: Gradients,
    decays: Sequence[float],
    norm: Tensor | None,
    max_norm: float | None,
    loss_scale: float,
) -> None:
    if len(grads) != len(weights):
        raise ValueError(f"there are {len(grads)} gradients for {len(weights)} weights")
    for i, (grad, weight) in enumerate(zip(grads, weights.params)):
        if grad is not None:
            weights.check_like(f"gradient {i}", grad, weight.shape)
    if len(decays) != len(weights.averages):
        raise ValueError(f"there are {len(decays)} decays for {len(weights.averages)} averages")
    for decay in decays:
        if not 0 <= decay < 1:
            raise ValueError(f"decay {decay} is not in [0, 1)")
    if norm is not None and (norm.ndim or norm.device != weights.steps.device):
        raise ValueError(
            f"norm has shape {tuple(norm.shape)} on {norm.device}; it must be one number on "
            f"{weights.steps.device}"
        )
    if max_norm is not None and (norm is None or not max_norm > 0):
        raise ValueError(f"max_norm is {max_norm}; it must be positive, and needs the norm")
    if not 0 < loss_scale < math.inf:
        raise ValueError(f"loss_scale is {loss_scale}; it must be positive and finite")
