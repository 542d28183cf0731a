"""One line of a result file of the comparison, and the files of such lines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..record import RESULTS

QUALITY = RESULTS / "quality"
REAL, TEACHER = "real data", "teacher"


@dataclass(frozen=True)
class Row:
    """One method with one seed.

    Attributes:
        world: what it was trained on.
        method: name of `METHODS`, `TEACHER`, `REAL`, or of an arm of the gradient noise.
        seed: of weights, data order and noise.
        budget: network evaluations per image of a batch that were allowed.
        batch_size: images per step.
        steps: optimizer steps.
        evaluations: what was used of the budget, counted.
        seconds: of training.
        measures: by network calls of sampling ("1", "2", ..), then by name; "" for what has none.
    """

    world: str
    method: str
    seed: int
    budget: float
    batch_size: int
    steps: int
    evaluations: float
    seconds: float
    measures: Mapping[str, Mapping[str, float]]

    @property
    def key(self) -> tuple[str, str, int]:
        """What may be there once."""
        return self.world, self.method, self.seed


def append(path: Path, row: Row, about: Mapping[str, Any]) -> None:
    """Write a row with what `machine.facts` says; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**dataclasses.asdict(row), "about": dict(about)}) + "\n")


def read(paths: Iterable[Path]) -> list[tuple[Row, dict[str, Any]]]:
    """All rows of the files with what is said about their machine, in the files' order.

    Raises:
        ValueError: for a line that is no such row, or two rows of one key.
    """
    rows: dict[tuple[str, str, int], tuple[Row, dict[str, Any]]] = {}
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                values = json.loads(line)
                about = values.pop("about")
                row = Row(**values)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path.name}, line {number}: {error}") from None
            if row.key in rows:
                raise ValueError(f"{path.name}, line {number}: {row.key} is there twice")
            rows[row.key] = row, about
    return list(rows.values())
