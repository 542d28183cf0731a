"""Wrappers of NVlabs/edm and locuslab/ect as a checkpoint stores them: their noise levels."""

from __future__ import annotations

import math
from typing import Any

from ..precond import Preconditioning
from ..sigmas import SIGMA_MAX, SIGMA_MIN
from ..wrappers.edm import Attributes, Wrapper, number
from .parametrisation import parametrisation


def parametrised(
    wrapper: Wrapper, attributes: Attributes, overrides: dict[str, Any], notes: list[str]
) -> tuple[Preconditioning, float, float]:
    """(preconditioning, sigma_min, sigma_max) of a wrapper.

    Args:
        wrapper: the class.
        attributes: what the object carries.
        overrides: precond, sigma_data, sigma_min and sigma_max are removed.
        notes: what is assumed is added.

    Raises:
        ValueError: for attributes that are no numbers or out of range.
    """
    if "precond" in overrides:
        return parametrisation("edm", "quarter_log", overrides)
    if "sigma_data" in overrides:
        attributes = {**attributes, "sigma_data": overrides.pop("sigma_data")}
    low, high = wrapper.levels(attributes)
    low, high = number(attributes, "sigma_min", low), number(attributes, "sigma_max", high)
    if low <= 0 and "sigma_min" not in overrides:
        notes.append(f"sigma_min={SIGMA_MIN}: stored is {low:g}, and EDM's samplers end there")
        low = SIGMA_MIN
    if high == math.inf and "sigma_max" not in overrides:
        notes.append(f"sigma_max={SIGMA_MAX:g}: stored is no limit, and EDM's samplers begin there")
        high = SIGMA_MAX
    low, high = overrides.pop("sigma_min", low), overrides.pop("sigma_max", high)
    return wrapper.precond(attributes), low, high
