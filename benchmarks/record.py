"""One line of a result file, and the files of such lines."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cases import Case

RESULTS = Path(__file__).resolve().parent / "results"
BASE = "base:"  # begins the names of the variants of another revision


@dataclass(frozen=True)
class Record:
    """One op, case, mode and variant. Times are in seconds; None where there is no number."""

    op: str
    case: str  # the options in words
    mode: str  # "forward" or "forward+backward"
    variant: str  # a backend, "eager", a rival, or "base:" and a backend
    kind: str  # "ours", "rival" or "base"
    status: str  # "ok", "FAILED" or "absent"
    note: str  # why there is no time, or by how much a rival misses the accuracy rule
    auto: bool  # whether the op chooses this backend by itself
    shape: tuple[int, ...] | None
    dtype: str  # of the tensors, each once
    options: Mapping[str, Any]  # of the op's `example`
    rounds: int
    median: float | None = None
    quartiles: tuple[float, float] | None = None  # lower and upper
    host: float | None = None  # for which one call occupies the host; GPU only
    ratio: float | None = None  # eager / this
    ratio_to_rival: float | None = None  # fastest rival / this
    ratio_to_base: float | None = None  # base revision's backend (its choice if `auto`) / this
    bytes: int | None = None  # the fewest that this case moves; memory-bound ops only
    bandwidth: float | None = None  # those bytes per second
    copy_bandwidth: float | None = None  # of this machine, bytes per second read and written
    base: str | None = None  # commit of a "base" line

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes lines of two files comparable."""
        return self.op, self.case, self.mode, self.variant

    @property
    def share(self) -> float | None:
        """Achieved bandwidth over that of a copy."""
        if self.bandwidth is None or self.copy_bandwidth is None:
            return None
        return self.bandwidth / self.copy_bandwidth

    def to_json(self, about: Mapping[str, Any]) -> str:
        """This line with the facts of the machine."""
        return json.dumps({**about, **dataclasses.asdict(self)})


FIELDS = {field.name for field in dataclasses.fields(Record)}


def first_shape(case: Case) -> tuple[int, ...] | None:
    """The shape among the options of a case."""
    shape = case.options.get("shape")
    return None if shape is None else tuple(shape)


def read(path: str | Path) -> tuple[dict[str, Any], list[Record]]:
    """The facts of the last line of a result file, and its records; the last of each key counts.

    Raises:
        ValueError: the file does not exist, or a line is not a record.
    """
    about: dict[str, Any] = {}
    records: dict[Any, Record] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            about = {key: value for key, value in fields.items() if key not in FIELDS}
            record = Record(**{key: value for key, value in fields.items() if key in FIELDS})
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}, line {number} is not a result: {error}") from error
        records.pop(record.key, None)
        records[record.key] = record
    return about, list(records.values())


def geometric_mean(values: Iterable[float]) -> float:
    """Of at least one positive number."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))
