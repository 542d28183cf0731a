"""`MetricCard`: all that one needs to know to judge a number, and to make it again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ModelFacts:
    """What is known about the evaluated model; None where it is not."""

    name: str | None = None  # file or folder, without its path
    sha256: str | None = None  # of the file
    ema_rate: float | str | None = None  # decay per step, or a half-life in words
    global_batch: int | None = None  # images per optimizer step of its training
    step: int | None = None  # optimizer steps of its training
    notes: tuple[str, ...] = ()  # what was assumed when it was loaded


@dataclass(frozen=True)
class MetricCard:
    """Circumstances of one number. Every field is always written; None means "not known".

    Raises:
        ValueError: for content that is not JSON.
    """

    metric: str  # what was computed, in words with its constants
    reported: str  # how the number follows from those of the seed ranges
    samples: int  # images per seed range
    seeds: tuple[str, ...] | None  # "first-last" of every seed range; None for stored images
    labels: str | None  # how classes were chosen
    nfe: int | None  # network calls per image
    sampler: dict[str, Any] | None  # method, steps, levels, ...
    uint8: str  # how images became bytes
    resize: str  # how they came to the extractor's size
    extractor: dict[str, Any]  # name, sha256, width
    reference: dict[str, Any] | None  # file and its SHA-256, or data; what it says about itself
    model: str | None  # name of the evaluated file
    model_sha256: str | None
    ema_rate: float | str | None
    global_batch: int | None  # of training
    training_step: int | None
    batch_size: int  # of sampling and of the extractor
    processes: int
    environment: dict[str, str]  # commit, versions, processor, GPU
    notes: tuple[str, ...] = ()  # what limits the number

    def __post_init__(self) -> None:
        try:
            json.dumps(asdict(self), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"a metric card must be JSON values: {error}") from None

    @property
    def commit(self) -> str:
        """Commit of this library that made the number."""
        return self.environment["commit"]

    def to_json(self) -> dict[str, Any]:
        """All fields and `commit`, JSON types."""
        return {**json.loads(json.dumps(asdict(self))), "commit": self.commit}


@dataclass(frozen=True)
class Number:
    """A value and its card."""

    name: str  # fid, kid, kid_std, is, is_std, precision, recall
    value: float
    values: tuple[float, ...]  # of every seed range
    card: MetricCard

    def to_json(self) -> dict[str, Any]:
        """name, value, values and card, JSON types."""
        shown = {"name": self.name, "value": self.value, "values": list(self.values)}
        return {**shown, "card": self.card.to_json()}
