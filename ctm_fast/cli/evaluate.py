"""`ctm-fast evaluate`: offline quality of a model, always beside the real/real row."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .. import data as datasets
from ..checkpoints import load
from ..checkpoints.files import write_text
from ..evaluation import OfflineProtocol
from ..evaluation.protocol import COLUMNS
from ..sampler import Sampler


@dataclass(frozen=True)
class Evaluate:
    """Compare a model's images with real ones: 1-NN accuracy, precision, recall, classes.

    These are pixel-space numbers for small images, not FID.
    """

    model: Path  # file or folder of any format that `load` reads without overrides
    data: str = "digits"  # digits, photo-patches, a folder of images, or an EDM .zip
    steps: tuple[int, ...] = (1, 2, 4, 8)  # one row for each; a diffusion model uses the first
    method: str | None = None  # by default what the model's kind allows
    seed: int = 0  # of the samples and of the split of the real images
    batch_size: int = 256  # images per network call
    out: Path | None = None  # JSON file for the numbers
    device: str = "cuda" if torch.cuda.is_available() else "cpu"  # where to compute

    def run(self) -> int:
        """Print the table; returns 0."""
        model = load(self.model, device=self.device)
        protocol = OfflineProtocol(datasets.open(self.data), self.seed)
        labels = protocol.labels if model.label_dim else None
        rows: list[tuple[str, dict[str, Any]]] = [("real / real", protocol.real_row())]
        steps: tuple[int | None, ...] = self.steps
        if model.kind == "denoiser":
            steps = (None,) if self.steps == Evaluate.steps else self.steps[:1]
        num = 2 * protocol.block_size
        for count in tqdm(steps, unit="row"):
            sampler = Sampler(model, count, self.method, batch_size=self.batch_size)
            images = sampler(num, labels=labels, seed=self.seed).cpu()
            rows.append((f"NFE {sampler.nfe}", protocol.row(images, labels)))
        print(table(rows))
        if self.out is not None:
            content = {"rows": dict(rows), "card": protocol.card(images, labels)}
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.out, json.dumps(content, indent=2) + "\n")
        return 0


def table(rows: list[tuple[str, dict[str, Any]]]) -> str:
    """Metric rows as aligned text."""
    lines = [f"{'':<18}" + "".join(f"{name:>17}" for name in COLUMNS)]
    for name, row in rows:
        cells = ("-" if row[c] is None else f"{row[c]:.3f}" for c in COLUMNS)
        lines.append(f"{name:<18}" + "".join(f"{cell:>17}" for cell in cells))
    return "\n".join(lines)
