"""The rates of training steps that the installed package knows: `ctm_fast/planning/rates.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ctm_fast.planning.rates import FILE

from .collected import Machine
from .outcome import OURS

__all__ = ["FILE", "text_of"]


def text_of(machines: Iterable[Machine]) -> str:
    """The table as JSON: the fastest step of ours per machine, network and dtype."""
    best: dict[tuple[str, str, str], dict[str, Any]] = {}
    for machine in machines:
        for line in machine.of_bench("step"):
            outcome = line.result
            if outcome.kind != OURS or outcome.flops_per_second is None:
                continue
            key = (machine.name, outcome.network, outcome.dtype)
            if key in best and best[key]["flops_per_second"] >= outcome.flops_per_second:
                continue
            best[key] = {
                "machine": machine.name,
                "gpu": machine.on_gpu,
                "network": outcome.network,
                "dtype": outcome.dtype,
                "batch": outcome.batch,
                "flops_per_second": float(f"{outcome.flops_per_second:.4g}"),
                "date": str(line.about.get("date")),
                "commit": str(line.about.get("commit")),
            }
    rows = [f"  {json.dumps(best[key])}" for key in sorted(best)]
    return "[\n" + ",\n".join(rows) + "\n]\n"
