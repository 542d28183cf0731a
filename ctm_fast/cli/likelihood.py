"""`ctm-fast likelihood`: bits/dim of a model on a data set, beside a Gaussian of the data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from ..checkpoints import load
from ..checkpoints.files import write_text
from ..data.dataset import ImageDataset, spread
from ..likelihood import Flow, GaussianFit, bits, bits_per_dim, dequantised, elbo
from ..likelihood.dequantise import interval
from ..likelihood.inputs import checked_model
from ..likelihood.per_dim import RESIDUALS
from ..sampler.seeding import image_seeds
from .sources import opened_data


@dataclass(frozen=True)
class Likelihood:
    """Bits per dimension of a model by the probability-flow ODE; lower is better.

    Beside it the same images under a Gaussian with the mean and covariance of the data set: a model
    that is not below it has learned nothing but those. The images are those of the data set itself,
    so for the data that the model was trained on these are training figures.
    """

    model: tyro.conf.Positional[Path]  # file or folder of any format that `load` reads
    data: str = "digits"  # photo-patches, a folder, .zip, .npz, .parquet or CIFAR's .tar.gz
    data_options: tuple[str, ...] = ()  # KEY=VALUE, for example split=test
    num: int | None = 256  # images, spread evenly over the set; None: all
    trace: str | None = None  # exact or hutchinson; by default exact up to 32 values per image
    probes: int = 1  # directions per image, trace hutchinson
    solver: str = "dopri5"  # adaptive for every image by itself, or heun with --steps
    steps: int = 128  # of solver heun
    rtol: float = 1e-5  # of solver dopri5
    atol: float = 1e-5  # of solver dopri5
    dequantise: str = "centred"  # or published, which shrinks the images by (levels - 1)/levels
    residual: str | None = None  # fixed or official: as CTM's eval_bpd is meant to report, or does
    elbo: int = 32  # noise levels per image of the ELBO's row; 0: no such row
    seed: int = 0  # of all random numbers; image k of the set depends on (seed, k) only
    batch_size: int = 128  # images per network call
    out: Path | None = None  # JSON file for the numbers
    device: str = "cuda" if torch.cuda.is_available() else "cpu"  # where to compute

    def run(self) -> int:
        """Print the table; returns 0."""
        if self.elbo < 0:
            raise ValueError(f"--elbo is {self.elbo}; it must be at least 0")
        if self.residual not in (*RESIDUALS, None):
            raise ValueError(f"--residual is {self.residual!r}; choose from {RESIDUALS} or None")
        flow = Flow(
            solver=self.solver,
            rtol=self.rtol,
            atol=self.atol,
            steps=self.steps,
            trace=self.trace,
            probes=self.probes,
            batch_size=self.batch_size,
            progress=True,
        )
        model = checked_model(load(self.model, device=self.device))
        dataset = opened_data(self.data, self.data_options)
        rows = self._rows(model, dataset, flow)
        print(table(rows))
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            content = {"rows": rows, "card": self._card(dataset, flow)}
            write_text(self.out, json.dumps(content, indent=2) + "\n")
        return 0

    def _rows(self, model: Any, dataset: ImageDataset, flow: Flow) -> dict[str, dict[str, Any]]:
        chosen = self._chosen(dataset)
        levels, width = dataset.white + 1, interval(dataset.white + 1, self.dequantise)
        all_seeds = image_seeds(self.seed, len(dataset))
        seeds = [all_seeds[i] for i in chosen.tolist()]
        labels = dataset.labels(chosen) if model.label_dim else None
        images = dataset.images(chosen)
        x = dequantised(images, levels, self.dequantise, seed=seeds)
        dims = x[0].numel()
        rows: dict[str, dict[str, Any]] = {}
        if self.residual is None:
            result = flow(model, x, labels, seed=seeds)
            found = bits(result.log_p, dims, levels, self.dequantise)
            calls = result.nfe.double()
            cost = {"nfe": float(calls.mean()), "passes_backwards": result.passes}
            rows["model"] = summary(found) | cost
        else:
            options = {name: getattr(flow, name) for name in Flow.__dataclass_fields__}
            found = bits_per_dim(
                model,
                images,
                labels,
                levels=levels,
                dequantise=self.dequantise,
                residual=self.residual,
                seed=seeds,
                **options,
            )
            rows[f"model, residual {self.residual}"] = summary(found)
        if self.elbo:
            bound = elbo(
                model, x, labels, samples=self.elbo, seed=seeds, batch_size=self.batch_size
            )
            per_dim = bits(bound, dims, levels, self.dequantise)
            rows["model, ELBO"] = summary(per_dim) | {"nfe": self.elbo + 1.0}

        def placed(indices: Tensor) -> Tensor:
            """Where the centre of every image's interval lies."""
            values = (dataset.images(indices).double() + 1) * (dataset.white / 2)
            return (values + (0.0 if self.dequantise == "centred" else 0.5)) * width - 1

        fit = GaussianFit.of(placed, len(dataset), width)
        per_dim = bits(fit.log_prob(x), dims, levels, self.dequantise)
        rows[f"Gaussian, {fit.covariance} covariance"] = summary(per_dim)
        return rows

    def _chosen(self, dataset: ImageDataset) -> Tensor:
        if self.num is not None and self.num < 1:
            raise ValueError(f"--num is {self.num}; it must be at least 1")
        return spread(len(dataset), len(dataset) if self.num is None else self.num)

    def _card(self, dataset: ImageDataset, flow: Flow) -> dict[str, Any]:
        """What the numbers depend on."""
        options = {name: getattr(flow, name) for name in Flow.__dataclass_fields__}
        del options["progress"], options["batch_size"]
        options["dtype"] = str(flow.dtype).removeprefix("torch.")
        return {
            "model": self.model.name,
            "data": dataset.info(),
            "images": len(self._chosen(dataset)),
            "levels": dataset.white + 1,
            "dequantise": self.dequantise,
            "residual": self.residual,
            "elbo_samples": self.elbo,
            "seed": self.seed,
            "flow": options,
        }


def summary(per_image: Tensor) -> dict[str, Any]:
    """Mean and standard error over images (None for one) of bits/dim."""
    values = per_image.double().cpu()
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else None
    return {"bits_per_dim": float(values.mean()), "standard_error": error}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Rows as aligned text."""
    lines = [f"{'':<32}{'bits/dim':>10}{'+-':>9}{'NFE':>8}"]
    for name, row in rows.items():
        error = "-" if row["standard_error"] is None else f"{row['standard_error']:.4f}"
        calls = f"{row['nfe']:.1f}" if "nfe" in row else "-"
        lines.append(f"{name:<32}{row['bits_per_dim']:>10.4f}{error:>9}{calls:>8}")
    return "\n".join(lines)
