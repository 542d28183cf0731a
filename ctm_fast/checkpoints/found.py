"""`Found`: what a reader of a foreign format learned, before the network is built."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..models.configs import Config
from ..precond import Preconditioning


@dataclass
class Found:
    """A model in somebody else's format: its weights under their names, and what they mean."""

    format: str  # name in `FORMATS`
    config: Config  # the network
    layout: str  # how its weights are named and ordered, see `models.key_layouts`
    state: dict[str, Tensor]  # published names and tensors, wrappers' prefixes removed
    precond: Preconditioning
    kind: str  # denoiser, consistency or trajectory
    sigma_min: float
    sigma_max: float
    notes: list[str] = field(default_factory=list)  # what was assumed rather than read
    provenance: dict[str, Any] = field(default_factory=dict)  # JSON values
