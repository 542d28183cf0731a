"""`ctm-fast evaluate`: quality of a model or of stored samples, offline or at full size."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from tqdm import tqdm

from ..checkpoints import load
from ..checkpoints.files import write_text
from ..evaluation import OfflineProtocol
from ..evaluation.protocol import COLUMNS
from ..sampler import Sampler
from .full_size import numbers_table, run_full_size, write_reference_file
from .sources import opened_data


@dataclass(frozen=True)
class Evaluate:
    """Compare a model's images with real ones: 1-NN accuracy, precision, recall, classes.

    These are pixel-space numbers for small images, not FID. With --metrics: FID, KID, Inception
    score, precision and recall on features of a network, each with its metric card.
    """

    model: Path | None = None  # file or folder of any format that `load` reads without overrides
    data: str = "digits"  # photo-patches, a folder, .zip, .npz, .parquet or CIFAR's .tar.gz
    data_options: tuple[str, ...] = ()  # KEY=VALUE of it or of --reference-from, as size=64
    steps: tuple[int, ...] = (1, 2, 4, 8)  # one row for each; a diffusion model uses the first
    method: str | None = None  # by default what the model's kind allows
    gamma: float = 0.0  # share of fresh noise per step in [0, 1], method gamma
    seed: int = 0  # of the offline samples and split; with --metrics the first image's seed
    batch_size: int | None = None  # images per network call; 256, with --metrics 64
    out: Path | None = None  # JSON file for the numbers
    device: str = "cuda" if torch.cuda.is_available() else "cpu"  # where to compute
    # Full size, on all processes of torchrun:
    metrics: tuple[Literal["fid", "kid", "is", "pr"], ...] = ()  # none: the offline table
    num: Annotated[
        int | None,
        # torchrun takes --num for its own --numa-binding and stops; it lets the other name through.
        tyro.conf.arg(
            aliases=("--num-images",),
            help="images per seed range: 50000, or all that --samples has; "
            "under torchrun write --num-images",
        ),
    ] = None
    repeats: int = 1  # seed ranges; EDM's practice is 3, of which FID's smallest is reported
    samples: Path | None = None  # evaluate these instead of a model: a file or folder as --data
    reference: Path | None = None  # statistics .npz of EDM, of ADM or ours; else --data's
    reference_from: str | None = None  # data of which --reference-out is made; nothing else is done
    reference_out: Path | None = None  # .npz file for it; features too where kid or pr is named
    extractor: str = "inception"  # or a .pt2 (torch.export) or .pt (TorchScript) file
    weights: Path | None = None  # file of Inception's weights; nothing is downloaded
    sha256: str | None = None  # of --weights, or of the extractor's file
    resize: int | None = None  # side to which images are resized for an extractor of your own
    uint8: Literal["round", "trunc"] = "round"  # how images become bytes: as EDM | as sony/ctm
    labels: Literal["uniform", "balanced"] = "uniform"  # classes drawn | in turn
    ema_rate: float | None = None  # for the card, where the model's file does not say it
    global_batch: int | None = None  # images per step of its training, for the card likewise

    def __post_init__(self) -> None:
        for name in ("num", "batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.data_options and self.reference is not None:
            raise ValueError("--data-options is for --data, which --reference replaces")
        if (self.reference_from is None) != (self.reference_out is None):
            raise ValueError("--reference-from DATA and --reference-out FILE need each other")
        if self.reference_from is not None:
            if self.model is not None or self.samples is not None or self.reference is not None:
                raise ValueError(
                    "--reference-from makes statistics of real images only; leave out --model, "
                    "--samples and --reference"
                )
            return
        if (self.model is None) == (self.samples is None):
            raise ValueError("need one of --model and --samples")
        if self.samples is not None and not self.metrics:
            raise ValueError("--samples needs --metrics, for example --metrics fid")
        if self.samples is not None and self.repeats != 1:
            raise ValueError("--samples has one set of images; --repeats is for models")
        if self.repeats < 1:
            raise ValueError(f"--repeats must be at least 1, got {self.repeats}")
        if not self.metrics and (self.reference is not None or self.weights is not None):
            raise ValueError("--reference and --weights need --metrics, for example --metrics fid")

    def run(self) -> int:
        """Print the table; returns 0."""
        if self.reference_from is not None:
            write_reference_file(self)
            return 0
        if self.metrics:
            rows, first = run_full_size(self)
            if not first:
                return 0
            print(numbers_table(rows))
            self._write({"rows": {name: [n.to_json() for n in numbers] for name, numbers in rows}})
            return 0
        return self._offline()

    def _offline(self) -> int:
        assert self.model is not None
        model = load(self.model, device=self.device)
        protocol = OfflineProtocol(opened_data(self.data, self.data_options), self.seed)
        labels = protocol.labels if model.label_dim else None
        rows: list[tuple[str, dict[str, Any]]] = [("real / real", protocol.real_row())]
        num, size = 2 * protocol.block_size, self.batch_size or 256
        for count in tqdm(self.counts(model.kind), unit="row"):
            sampler = Sampler(model, count, self.method, self.gamma, batch_size=size)
            images = sampler(num, labels=labels, seed=self.seed).cpu()
            rows.append((f"NFE {sampler.nfe}", protocol.row(images, labels)))
        print(table(rows))
        self._write({"rows": dict(rows), "card": protocol.card(images, labels)})
        return 0

    def counts(self, kind: str) -> tuple[int | None, ...]:
        """Numbers of steps, one per row; None where the method has a default."""
        if kind != "denoiser":
            return self.steps
        return (None,) if self.steps == Evaluate.steps else self.steps[:1]

    def _write(self, content: dict[str, Any]) -> None:
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.out, json.dumps(content, indent=2) + "\n")


def table(rows: list[tuple[str, dict[str, Any]]]) -> str:
    """Metric rows as aligned text."""
    lines = [f"{'':<18}" + "".join(f"{name:>17}" for name in COLUMNS)]
    for name, row in rows:
        cells = ("-" if row[c] is None else f"{row[c]:.3f}" for c in COLUMNS)
        lines.append(f"{name:<18}" + "".join(f"{cell:>17}" for cell in cells))
    return "\n".join(lines)
