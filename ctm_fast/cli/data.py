"""`ctm-fast data`: what a source of images holds, its sigma_data, and a sheet of its images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from .. import data as datasets
from ..checkpoints.files import write_text
from ..data import ImageDataset
from ..data.dataset import SIGMA_DATA_IMAGES, spread
from ..evaluation import grid_png
from .sources import opened_data

_SHEET = 1600  # pixels that a sheet is wide at most
_SIDE = 64  # pixels to which small images are enlarged
_ROWS = 10  # images per class, and classes, at most
_CLASSES_SHOWN = 20


@dataclass(frozen=True)
class Data:
    """Report what a source of images holds: format, labels, value range, sigma_data, repeats."""

    source: Annotated[str, tyro.conf.Positional]  # as for --data: a name, a folder or a file
    data_options: tuple[str, ...] = ()  # KEY=VALUE, for example size=64 resize=adm split=val
    images: int = SIGMA_DATA_IMAGES  # images of which pixels are measured
    out: Path | None = None  # folder for data.txt, data.json and samples.png

    def run(self) -> int:
        """Print the report; returns 0."""
        dataset = opened_data(self.source, self.data_options)
        told = {"source": self.source, "options": list(self.data_options)}
        facts = {**told, **datasets.survey(dataset, self.images)}
        text = report(facts)
        print(text)
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            write_text(self.out / "data.txt", text + "\n")
            write_text(self.out / "data.json", json.dumps(facts, indent=2) + "\n")
            write_sheet(dataset, self.out / "samples.png")
            print(f"wrote data.txt, data.json and samples.png to {self.out}")
        return 0


def report(facts: dict[str, Any]) -> str:
    """The facts of a survey as aligned text."""
    pixels = facts["pixels"]
    channels, height, width = facts["shape"]
    repeated = facts["repeated"]
    lines = [
        ("source", " ".join([facts["source"], *facts.get("options", ())])),
        ("format", facts["format"]),
        ("images", f"{facts['images']}, {channels} x {height} x {width}"),
        ("labels", _labels(facts["label"])),
        ("pixels", f"{pixels['lowest']} to {pixels['highest']}, stored as {pixels['stored']}"),
        ("mean", f"{pixels['mean']:.6f} in [-1, 1], of {pixels['measured_images']} images"),
        ("sigma_data", f"{pixels['sigma_data']:.6f}"),
        ("repeated", "not searched for" if repeated is None else f"{repeated} images"),
    ]
    known = ("source", "options", "format", "name", "images", "shape", "label", "pixels")
    for name, value in facts.items():
        if name not in (*known, "repeated"):
            lines.append((name, json.dumps(value) if isinstance(value, dict | list) else value))
    text = [f"{name:<12} {value}" for name, value in lines]
    return "\n".join(text + _counts(facts["label"]))


def write_sheet(dataset: ImageDataset, path: Path) -> Path:
    """A PNG with a row per class for the first ten classes, or images spread over the set."""
    indices, columns = sheet_indices(dataset)
    scale = max(1, _SIDE // max(dataset.shape[1:]))
    fitting = max(1, _SHEET // (dataset.shape[2] * scale))
    if fitting < columns:
        keep = torch.arange(len(indices)) % columns < fitting
        indices, columns = indices[keep], fitting
    return grid_png(dataset.images(indices), path, columns, scale)


def sheet_indices(dataset: ImageDataset) -> tuple[Tensor, int]:
    """Images of the sheet and how many are in a row, (N,) int64."""
    if dataset.num_classes:
        labels = dataset.labels(torch.arange(len(dataset)))
        assert labels is not None
        members = [torch.nonzero(labels == each).flatten() for each in labels.unique().tolist()]
        members = members[:_ROWS]
        count = min(_ROWS, *(len(each) for each in members))
        return torch.cat([each[spread(len(each), count)] for each in members]), count
    return spread(len(dataset), _ROWS**2), min(_ROWS, len(dataset))


def _labels(label: dict[str, Any]) -> str:
    if label["kind"] == "none":
        return "none"
    if label["kind"] == "vectors":
        return f"vectors of {label['dim']} numbers"
    empty = f", {label['empty']} of them empty" if label["empty"] else ""
    return f"{label['classes']} classes of {label['smallest']} to {label['largest']} images{empty}"


def _counts(label: dict[str, Any]) -> list[str]:
    if label["kind"] != "classes":
        return []
    pairs = list(zip(label["names"], label["counts"], strict=True))
    # Names come from files: no control characters for the terminal.
    shown = (("".join(c for c in n if c.isprintable()), count) for n, count in pairs)
    lines = [f"  {n:<20.20} {count}" for n, count in islice(shown, _CLASSES_SHOWN)]
    left = len(pairs) - len(lines)
    return [*lines, *([f"  and {left} more"] if left > 0 else [])]
