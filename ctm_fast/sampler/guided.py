"""What a sampler is told about guidance: keywords in place of the wrappers."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import InitVar
from typing import Any

from ..wrappers import ClassifierGuided, Guided, is_model
from .foreign import NAMES, Foreign, wrapped


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told(Foreign):
    """Keywords of `wrap` and of guidance as arguments of a dataclass: used up when it is made."""

    guidance: InitVar[float | None] = None  # bad + guidance (good - bad); 1 is off. Without `bad`
    # the good model without labels is the bad one: classifier-free guidance
    bad: InitVar[Any] = None  # a worse model of the same kind, which guides: autoguidance
    classifier: InitVar[Any] = None  # classifier(x, sigma) -> logits; see `ClassifierGuided`
    classifier_weight: InitVar[float | None] = None  # of its gradient; 0 is off, default 1


def modelled(model: Any, *told: Any) -> Any:
    """The model as `wrap`, `Guided` and `ClassifierGuided` make it, in this order.

    Args:
        model: a `Denoiser`, or any callable.
        told: values of the fields of `Told`, in their order. A `bad` that is no `Denoiser` is
            wrapped with the same keywords as the model.

    Raises:
        ValueError: as these three, for a bad model without guidance, or for a classifier's weight
            without a classifier.
    """
    foreign, (guidance, bad, classifier, weight) = told[: len(NAMES)], told[len(NAMES) :]
    model = wrapped(model, *foreign)
    if guidance is None and bad is not None:
        raise ValueError("bad= needs guidance=, the weight of the difference; 1 is off")
    if guidance is not None:
        model = _guided(model, guidance, bad, foreign)
    if classifier is None:
        if weight is not None:
            raise ValueError(f"classifier_weight={weight} without classifier=")
        return model
    weight = 1.0 if weight is None else weight
    return ClassifierGuided(model, classifier, weight=weight)


def _guided(model: Any, guidance: float, bad: Any, foreign: tuple[Any, ...]) -> Any:
    if not math.isfinite(guidance):
        raise ValueError(f"guidance is {guidance}; it must be finite")
    if guidance == 1:
        return model
    if bad is not None and not is_model(bad):
        bad = wrapped(bad, *foreign)
    return Guided(model, bad, weight=guidance)
