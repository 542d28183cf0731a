"""`ctm-fast convert`: a model of any format as a .safetensors file of this library."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from .. import models
from ..checkpoints import load, opened, save
from ..denoiser import Denoiser
from ..rng import stream
from .overrides import parsed_overrides


@dataclass(frozen=True)
class Convert:
    """Write a model of any format that `load` reads as a .safetensors file of this library.

    What could not be read from the file is assumed, said, and can be overridden, for example
    `ctm-fast convert IN.pt OUT.safetensors kind=consistency img_resolution=64`.
    """

    source: tyro.conf.Positional[Path]  # file or folder of another code base
    out: tyro.conf.Positional[Path]  # .safetensors file to write
    overrides: tyro.conf.Positional[tuple[str, ...]] = ()  # KEY=VALUE instead of what is assumed
    format: str = "auto"  # what the source is, if its content does not tell
    kind: str | None = None  # denoiser, consistency or trajectory
    force: bool = False  # replace OUT if it exists

    def run(self) -> int:
        """Write the file and compare it with the source; returns 0."""
        overrides = parsed_overrides(self.overrides)
        if self.kind is not None:
            overrides["kind"] = self.kind
        self._check_out()
        found = opened(self.source, self.format, **overrides)
        for line in description(found.denoiser, found.format):
            print(line)
        for note in found.denoiser.notes:
            print(f"assumed: {note}")
        self.out.parent.mkdir(parents=True, exist_ok=True)
        origin = {"source_format": found.format, "source_name": self.source.name}
        # An existing file is replaced by one that was compared, or not at all.
        unproven = self.out.with_name(f".{self.out.stem}.unproven.safetensors")
        try:
            save(found.denoiser, unproven, **{**origin, **found.provenance})
            difference = compared(found.denoiser, load(unproven))
            if difference != 0:
                raise ValueError(
                    f"what was written gives other outputs than {self.source} (largest difference "
                    f"{difference:.3g}) and was removed; please report this"
                )
            os.replace(unproven, self.out)
        finally:
            unproven.unlink(missing_ok=True)
        print(f"wrote {self.out}; its outputs on a random batch equal those of {self.source}")
        return 0

    def _check_out(self) -> None:
        if self.out.suffix != ".safetensors":
            raise ValueError(f"OUT must end in .safetensors, got {self.out.name!r}")
        if self.out.exists():
            if self.source.exists() and self.out.samefile(self.source):
                raise ValueError(f"{self.out} is both source and target")
            if not self.force:
                raise ValueError(f"{self.out} exists; --force replaces it")


def description(model: Denoiser, format: str) -> list[str]:
    """What was recognised, a line each."""
    config = models.config_to_json(model.net.config)  # type: ignore[arg-type]
    family = config.pop("family")
    count = sum(weight.numel() for weight in model.parameters())
    precond = model.precond.to_json()
    parts = (value["name"] if isinstance(value, dict) else value for value in precond.values())
    return [
        f"format: {format}",
        f"network: {family}, {count / 1e6:.1f} million parameters, "
        + ", ".join(f"{name}={value}" for name, value in config.items()),
        f"kind: {model.kind}, noise levels {model.sigma_min:g} to {model.sigma_max:g}, "
        f"sigma_data {model.sigma_data:g}, preconditioning {', '.join(map(str, parts))}",
    ]


@torch.no_grad()
def compared(one: Denoiser, other: Denoiser) -> float:
    """Largest difference of two models' outputs on a random batch; NaN if one is not finite."""
    answers: list[list[Tensor]] = []
    for model in (one, other):
        x, sigma, labels = random_batch(model)
        outputs = [model(x, sigma, labels)]
        if model.kind == "trajectory":
            outputs.append(model.jump(x, sigma, sigma / 2, labels))
        answers.append(outputs)
    differences = [(a - b).abs().max() for a, b in zip(*answers, strict=True)]
    return float(torch.stack(differences).max())


def random_batch(model: Denoiser) -> tuple[Tensor, Tensor, Tensor | None]:
    """(x, sigma, labels) for two images, the same at every call."""
    generator = stream(0, 2)
    shape = (2, model.img_channels, model.img_resolution, model.img_resolution)
    low, high = model.sigma_min, model.sigma_max
    sigma = torch.tensor([(low * high) ** 0.5, high])
    x = torch.randn(shape, generator=generator) * sigma.reshape(-1, 1, 1, 1)
    classes: Any = model.label_dim
    return x, sigma, torch.tensor([0, classes - 1]) if classes else None
