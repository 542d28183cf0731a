"""What a training command would do: every value with where it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from ..citations import CITED, PAPERS, names_of
from ..losses import OBJECTIVES
from ..planning import Plan
from ..presets import Preset
from ..trainer import TrainConfig
from .overrides import parsed_overrides

DEFAULT, HERE = "library default", "command line"
WIDEST = 60  # characters of a column


def resolved(
    command: Any, options: Mapping[str, Any], preset: Preset | None
) -> list[tuple[str, ...]]:
    """(name, value, source) of everything that a training command fixes.

    Args:
        command: has objective, train, net, data, data_options, teacher and student, as
            `cli.train.Train`.
        options: of the network's configuration.
        preset: that it was made from, or None.
    """
    objective, config = command.objective, command.train
    default = type(objective)() if preset is None else preset.objective()
    same = type(default) is type(objective)
    values = {"objective": OBJECTIVES.name_of(objective)}
    values |= _fields("objective", objective) | _fields("train", config)
    values |= {"network": command.net} | {f"net.{k}": v for k, v in options.items()}
    files = ("data", "teacher", "student")
    values |= {name: getattr(command, name) for name in files}
    values |= {f"data.{k}": v for k, v in parsed_overrides(command.data_options).items()}
    before: dict[str, Any] = dict.fromkeys(("objective", "network", *files))
    before |= _fields("objective", default) if same else {}
    before |= _fields("train", TrainConfig() if preset is None else preset.train())
    sources: dict[str, str] = {}
    if preset is not None:
        values |= {k: v for k, v, _ in preset if k not in values and not k.startswith("net.")}
        before |= {k: v for k, v, _ in preset if not k.startswith("objective.") or same}
        before["objective"] = preset.objective_name
        sources = dict(preset.sources) | {"objective": f"preset {preset.name}"}
    rows = []
    for name, value in values.items():
        unchanged = name in before and before[name] == value
        rows.append((name, _text(value), sources.get(name, DEFAULT) if unchanged else HERE))
    return [row for row in rows if row[1] != "None" or row[2] != DEFAULT]


def resolved_table(command: Any, options: Mapping[str, Any], preset: Preset | None) -> str:
    """`resolved` as text, with what the run will cost, the preset's note and the papers to cite."""
    rows = resolved(command, options, preset)
    # A few very long values do not push the sources of all others out of sight.
    widths = [min(WIDEST, max(len(row[i]) for row in rows)) for i in range(2)]
    lines = [f"{n:<{widths[0]}}  {v:<{widths[1]}}  {source}" for n, v, source in rows]
    told = planned(command, options).rows()
    lines += ["", *(f"{name:<28}{text}" for name, text in told)]
    if preset is not None and preset.note:
        lines += ["", f"note: {preset.note}"]
    papers = [PAPERS[key] for name in names_of(command.objective) for key in CITED.get(name, ())]
    lines += ["", *(f"cite: {p.title}, arXiv:{p.arxiv}" for p in papers)]
    return "\n".join(lines)


def planned(command: Any, options: Mapping[str, Any]) -> Plan:
    """What a training command will cost."""
    dtype = getattr(torch, command.teacher_dtype, torch.float32)
    return Plan(command.objective, command.net, options, command.train, dtype)


def _fields(prefix: str, value: Any) -> dict[str, Any]:
    found = dataclasses.fields(value)
    return {f"{prefix}.{f.name}": getattr(value, f.name) for f in found if f.init}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)
