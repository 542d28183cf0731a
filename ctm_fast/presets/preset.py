"""`Preset`: an objective, a network and training options, each value with its source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..losses import OBJECTIVES
from ..trainer.config import TrainConfig

STARTS = ("random", "teacher", "student")
PARTS = ("objective", "train", "net")
NUMBERS = ("network", "data", "start", "sigma_min", "sigma_max", "sigma_data", "middle")


@dataclass(frozen=True)
class Said:
    """Values that one source gives, by their names in a preset: "objective.gap", "train.lr"."""

    source: str
    values: Mapping[str, Any]

    def by(self, source: str) -> Said:
        """The same values from another source."""
        return Said(source, self.values)


def said(source: str, **values: Any) -> Said:
    """What a source says.

    Args:
        source: where it says so, or "unverified" and why.
        values: dictionaries objective, train (of `TrainConfig`) and net (of the network's
            configuration); network (name of a network preset), data (name, if it is embedded),
            start (what the student's weights are at first: "random", the "teacher"'s, or those of
            an earlier run's "student"), sigma_min, sigma_max, sigma_data (of a network with random
            weights), middle (noise level between two steps of sampling).

    Raises:
        ValueError: for other names.
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if name in PARTS:
            flat.update({f"{name}.{key}": entry for key, entry in value.items()})
        elif name in NUMBERS:
            flat[name] = value
        else:
            raise ValueError(f"a preset has no {name!r}; choose from {PARTS + NUMBERS}")
    return Said(source, flat)


class Preset:
    """An objective, a network and training options.

    Args:
        name: of the preset.
        objective: name in OBJECTIVES.
        sources: what each source says; of two that name the same value the later one counts.
        note: what the published run has that this library does not, or what else to know.

    Raises:
        ValueError: for a value that its class does not have or refuses.
    """

    def __init__(self, name: str, objective: str, *sources: Said, note: str = "") -> None:
        self.name, self.objective_name, self.note = name, objective, note
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        for entry in sources:
            self.values.update(entry.values)
            self.sources.update(dict.fromkeys(entry.values, entry.source))
        if self.start not in STARTS:
            raise ValueError(f"{name}: start is {self.start!r}; choose from {STARTS}")

    def part(self, name: str) -> dict[str, Any]:
        """Values of "objective", "train" or "net", by field."""
        prefix = f"{name}."
        return {k.removeprefix(prefix): v for k, v in self.values.items() if k.startswith(prefix)}

    def objective(self) -> Any:
        """The objective; fields that are not mentioned have their defaults."""
        return OBJECTIVES[self.objective_name](**self.part("objective"))

    def train(self) -> TrainConfig:
        """Training options; fields that are not mentioned have their defaults."""
        return TrainConfig(**self.part("train"))

    @property
    def network(self) -> str:
        """Name of a network preset, see `ctm_fast.models`."""
        return str(self.values.get("network", "digits"))

    @property
    def net_options(self) -> dict[str, Any]:
        """Differences from the network preset."""
        return self.part("net")

    @property
    def data(self) -> str | None:
        """Embedded data set, or None where a user has to bring the data."""
        return self.values.get("data")

    @property
    def start(self) -> str:
        """What the student's weights are at first: "random", "teacher" or "student"."""
        return str(self.values.get("start", "random"))

    @property
    def sigma_range(self) -> tuple[float, float] | None:
        """Smallest and largest noise level of the student; None: the teacher's, or 0.002 and 80."""
        if "sigma_min" not in self.values:
            return None
        return float(self.values["sigma_min"]), float(self.values["sigma_max"])

    @property
    def sigma_data(self) -> float | None:
        """That of a network with random weights; None: measured on the data."""
        return self.values.get("sigma_data")

    @property
    def middle(self) -> float | None:
        """Noise level between the two steps of sampling, or None where nobody says one."""
        return self.values.get("middle")

    def __iter__(self) -> Iterator[tuple[str, Any, str]]:
        """(name, value, source) of every value of the preset."""
        return ((name, value, self.sources[name]) for name, value in self.values.items())
