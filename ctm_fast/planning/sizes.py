"""Work and memory of networks: a table of the presets, and for others a pass without data.

`python -m ctm_fast.planning` writes the table anew.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import torch

from ..models.configs import Config
from ..models.presets import PRESETS
from .allocations import pass_bytes
from .flops import encoder_flops, network_flops, parameters

FILE = Path(__file__).with_name("sizes.json")
AT = 64  # images of a pass; memory grows in proportion


def forward_flops(config: Config) -> float:
    """Floating-point operations of one forward per image; see `flops.network_flops`."""
    return _known(config, "forward") or network_flops(config).forward


def training_flops(config: Config) -> float:
    """Of a forward and the backward to all weights."""
    return _known(config, "trained") or network_flops(config).trained


def encoding_flops(config: Config) -> float:
    """Of the encoder alone, forward."""
    return _known(config, "encoder") or encoder_flops(config)


def training_bytes(config: Config, dtype: torch.dtype | None, *, carried: bool = False) -> int:
    """Activations per image of a forward and backward pass; see `allocations.pass_bytes`.

    Args:
        config: of the network.
        dtype: of the computation, None for float32.
        carried: whether the answer passes through a frozen copy.
    """
    name = f"{'half' if dtype else 'full'}{_dropped(config)}{' carried' if carried else ''}"
    known = _known(config, name)
    return int(known) if known else _training_bytes(config, dtype, carried)


def frozen_bytes(config: Config, dtype: torch.dtype) -> int:
    """Memory per image of a forward pass without gradient, all weights in `dtype`."""
    known = _known(config, "frozen half" if dtype.itemsize == 2 else "frozen")
    return int(known) if known else pass_bytes(config, AT, backward=False, weights=dtype) // AT


def computed(config: Config) -> dict[str, float]:
    """The row of the table for a network."""
    work = network_flops(config)
    row = {"forward": work.forward, "trained": work.trained, "encoder": encoder_flops(config)}
    for dropout in (0.0, 0.1):
        net = dataclasses.replace(config, dropout=dropout)
        for name, dtype in (("full", None), ("half", torch.bfloat16)):
            key = f"{name}{_dropped(net)}"
            row[key] = _training_bytes(net, dtype, False)
            if net.destination:
                row[f"{key} carried"] = _training_bytes(net, dtype, True)
    for name, weights in (("frozen", torch.float32), ("frozen half", torch.bfloat16)):
        row[name] = pass_bytes(config, AT, backward=False, weights=weights) // AT
    return row


@functools.cache
def table() -> dict[str, dict[str, float]]:
    """The rows by the names of network presets."""
    rows: dict[str, dict[str, float]] = json.loads(FILE.read_text(encoding="utf-8"))
    return rows


def write() -> None:
    """Compute the table and write it."""
    rows = {name: computed(config) for name, config in PRESETS.items()}
    lines = (f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _training_bytes(config: Config, dtype: torch.dtype | None, carried: bool) -> int:
    # Autocast's casts of the weights are there whatever the batch.
    casts = 0 if dtype is None else 2 * parameters(config) * (2 if carried else 1)
    return (pass_bytes(config, AT, dtype, carried=carried) - casts) // AT


def _known(config: Config, key: str) -> float | None:
    plain = _plain(config)
    name = next((name for name, other in PRESETS.items() if _plain(other) == plain), None)
    return None if name is None else table().get(name, {}).get(key)


def _plain(config: Config) -> Config:
    """What is told besides the image, and how, costs next to nothing."""
    own: dict[str, Any] = {"fourier_scale": 0.0} if hasattr(config, "fourier_scale") else {}
    return dataclasses.replace(config, dropout=0.0, label_dim=0, augment_dim=0, **own)


def _dropped(config: Config) -> str:
    return " dropout" if config.dropout else ""
