"""The optimizer step of csrc/, one call for all weights."""

from collections.abc import Sequence

import torch

from . import _native
from ._optimizer_weights import Rule, Step, Weights


def native_step(
    weights: Weights, grads: Sequence[torch.Tensor | None], rule: Rule, step: Step
) -> None:
    """`optimizer_step` in one pass over the memory of a CPU."""
    gain = step.gain()
    if gain is None:
        return
    weights.advance(grads)
    ordered = weights.gradients(grads)
    # Named here so that the tables outlive the call.
    addresses = torch.tensor([0 if g is None else g.data_ptr() for g in ordered])
    factors = rule.factors(weights.steps, step.lr)
    follow = torch.tensor([1 - decay for decay in step.decays], dtype=torch.float64)
    tables = (weights.sizes, weights.table, addresses, factors, follow)
    _native.module.optimizer_step(
        *(t.data_ptr() for t in tables),
        *(len(weights), len(weights.averages)),
        *(1 - rule.beta1, 1 - rule.beta2, gain),
        torch.get_num_threads(),
    )
