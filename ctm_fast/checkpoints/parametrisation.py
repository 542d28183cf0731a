"""Published preconditionings by name, with their ranges of noise levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..inner import CM, EDM, Ect, Epsilon, Score
from ..models.configs import Config, SongConfig
from ..noise_embeddings import DiscreteTime, NoiseEmbedding, VPTime
from ..precond import Euler, Preconditioning
from ..sigmas import SIGMA_MAX, SIGMA_MIN

Range = tuple[float, float]
_VE_RANGE = (0.02, 100.0)
_VP_FIRST = 1e-5  # time at which EDM's VP networks end

# Given sigma_data, sigma_min and the embedding that the network's family uses.
_SCALINGS: dict[str, Callable[[float, float, NoiseEmbedding], Preconditioning]] = {
    "edm": lambda sd, low, own: Preconditioning(EDM(sd), Euler(), own),
    "cm": lambda sd, low, own: Preconditioning(CM(sd, low), Euler(), own),
    "ect": lambda sd, low, own: Preconditioning(Ect(sd), Euler(), own),
    "vp": lambda sd, low, own: Preconditioning(Epsilon(sd), Euler(), VPTime()),
    "ve": lambda sd, low, own: Preconditioning(Score(sd), Euler(), "half_log"),
    **{
        name: lambda sd, low, own, schedule=name: Preconditioning(  # type: ignore[misc]
            Epsilon(sd), Euler(), DiscreteTime(schedule)
        )
        for name in ("iddpm", "linear", "scaled_linear", "cosine")
    },
}
PRECONDS = tuple(sorted(_SCALINGS))


def parametrisation(
    default: str, own: NoiseEmbedding, overrides: dict[str, Any]
) -> tuple[Preconditioning, float, float]:
    """(preconditioning, sigma_min, sigma_max).

    `precond` (a name of `PRECONDS` or a `Preconditioning`), `sigma_data`, `sigma_min` and
    `sigma_max` are removed from `overrides`.

    Args:
        default: name to take where `precond` is not given.
        own: noise embedding of the network's family, used by edm, cm and ect.
        overrides: given by the user.

    Raises:
        ValueError: for an unknown name, or sigma_data beside a whole `Preconditioning`.
    """
    chosen = overrides.pop("precond", default)
    if isinstance(chosen, Preconditioning):
        if "sigma_data" in overrides:
            raise ValueError("precond says what sigma_data is; give one of them")
        low, high = _range(chosen)
    elif chosen in _SCALINGS:
        low = float(overrides.get("sigma_min", SIGMA_MIN))
        chosen = _SCALINGS[chosen](float(overrides.pop("sigma_data", 0.5)), low, own)
        low, high = _range(chosen)
    else:
        raise ValueError(f"unknown precond {chosen!r}; choose from {PRECONDS}")
    return chosen, overrides.pop("sigma_min", low), overrides.pop("sigma_max", high)


def usual_embedding(config: Config, layout: str) -> str:
    """Noise embedding of the code base that such a network comes from.

    Args:
        config: the network.
        layout: its key layout.
    """
    if isinstance(config, SongConfig) or layout == "edm" or config.min_group > 1:
        return "quarter_log"
    return "log_250"


def _range(precond: Preconditioning) -> Range:
    """Noise levels that a network of such a preconditioning was trained on."""
    embedding = precond.noise_embedding
    if isinstance(embedding, VPTime):
        return embedding.sigma(_VP_FIRST), embedding.sigma(1.0)
    if isinstance(embedding, DiscreteTime):
        return embedding.sigma_min, embedding.sigma_max
    return _VE_RANGE if isinstance(precond.inner, Score) else (SIGMA_MIN, SIGMA_MAX)
