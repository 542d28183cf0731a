"""`ctm-fast demo`: from real digits to CTM samples and a report, on a plain CPU."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .. import data as datasets
from .. import models
from ..checkpoints import load
from ..data import ImageDataset
from ..denoiser import Denoiser
from ..evaluation import MetricRow, OfflineProtocol, environment, write_report
from ..inference import fast_dtype, freeze
from ..losses import CTM, DSM
from ..registry import fields_to_json
from ..sampler import Sampler
from ..trainer import TrainConfig, Trainer
from .budgets import BUDGETS, SIGMA_RANGE, Budget, BudgetName
from .demo_report import NFES, TEACHER_STEPS, Measured, content
from .pictures import preview
from .train import new_denoiser, save_average

SAMPLE_BATCH = 449  # images per network call when sampling


@dataclass(frozen=True)
class Demo:
    """Train a teacher on real handwritten digits, distil it into a CTM, and write a report.

    Runs on a CPU. Ctrl-C keeps the work done so far; the same command continues it.
    """

    budget: BudgetName = "small"  # small: about 6 minutes on 2 cores; medium: 15; large: 2 hours
    gan: bool = False  # also distil with the adversarial term, for as many steps, and compare
    seed: int = 0  # of data order, weights, noise and samples
    out: Path | None = None  # folder of the run; runs/demo-BUDGET-seedSEED if not given

    def run(self) -> int:
        """Do everything that is not done yet and write `report.html`; returns 0."""
        started = time.perf_counter()
        budget = BUDGETS[self.budget]
        out = self.out or Path("runs") / f"demo-{self.budget}-seed{self.seed}"
        dataset = datasets.open("digits")
        print(f"{len(dataset)} real digits, sigma_data {dataset.sigma_data:.3f}; writing to {out}")

        teacher = self._teacher(budget, dataset, out)
        folders = {"CTM": "student", "CTM + GAN": "student-gan"}
        if not self.gan:
            del folders["CTM + GAN"]
        students = {
            name: self._student(name, folder, budget, dataset, teacher, out)
            for name, folder in folders.items()
        }
        student = students["CTM"]
        seconds = {name: _seconds(out / name) for name in ("teacher", *folders.values())}

        print("sampling and measuring")
        protocol = OfflineProtocol(dataset, self.seed)
        measured = [self._measure("teacher", teacher, TEACHER_STEPS, protocol)]
        for name, model in students.items():
            measured += [self._measure(name, model, steps, protocol) for steps in NFES]

        model_file = out / "model.safetensors"
        again = Sampler(load(model_file), steps=1, batch_size=SAMPLE_BATCH)
        labels = protocol.labels
        same = torch.equal(again(labels=labels, seed=self.seed), measured[1].images)
        if not same:
            raise ValueError(f"{model_file} gives other samples than the model it was saved from")

        report = write_report(
            out,
            content(
                measured,
                real=MetricRow("real / real", protocol.real_row(), reference=True),
                labels=labels,
                card=protocol.card(measured[-1].images, labels),
                logs={name: _log(out / name) for name in seconds},
                trajectory=self._trajectory(student),
                sigma_data=dataset.sigma_data,
                config=self._config(budget),
                environment=environment(),
                seconds=seconds,
            ),
        )
        _print_rows(protocol.real_row(), measured)
        print(f"{model_file} loads and gives the same images again")
        print(f"report: {report} ({(time.perf_counter() - started) / 60:.1f} minutes)")
        return 0

    def _teacher(self, budget: Budget, dataset: ImageDataset, out: Path) -> Denoiser:
        print(f"EDM teacher, {budget.teacher.steps} steps")
        net = new_denoiser(
            budget.net, dataset, self.seed, sigma_range=SIGMA_RANGE, **budget.net_options
        )
        return self._fit("teacher", DSM(), net, None, dataset, self._own(budget.teacher), out)

    def _student(
        self,
        name: str,
        folder: str,
        budget: Budget,
        dataset: ImageDataset,
        teacher: Denoiser,
        out: Path,
    ) -> Denoiser:
        plain = name == "CTM"
        objective = budget.objective if plain else budget.gan_objective
        config = self._own(budget.student if plain else budget.gan_student)
        print(f"{name} distillation, {config.steps} steps")
        net = models.student_from(teacher, self.seed)
        return self._fit(folder, objective, net, freeze(teacher), dataset, config, out)

    def _fit(
        self,
        name: str,
        objective: CTM | DSM,
        net: Denoiser,
        teacher: Denoiser | None,
        dataset: ImageDataset,
        config: TrainConfig,
        out: Path,
    ) -> Denoiser:
        """Average of the trained network, read back from the file that a user will load."""
        folder = out / name
        previews = [preview(folder / "previews", dataset)]
        trainer = Trainer(
            objective,
            net,
            teacher=teacher,
            data=dataset,
            out=folder,
            config=config,
            callbacks=previews,
        )
        summary = trainer.fit()
        _add_seconds(folder, summary.seconds)
        file = {"student": "model", "student-gan": "model-gan"}.get(name, name)
        return load(save_average(trainer, out / f"{file}.safetensors", dataset))

    def _measure(
        self, name: str, model: Denoiser, steps: int, protocol: OfflineProtocol
    ) -> Measured:
        sampler = Sampler(model, steps=steps, batch_size=SAMPLE_BATCH)
        started = time.perf_counter()
        images = sampler(labels=protocol.labels, seed=self.seed)
        each = (time.perf_counter() - started) / len(images) * 1000
        row = MetricRow(name, protocol.row(images, protocol.labels), sampler.nfe, each)
        return Measured(row, images)

    def _trajectory(self, student: Denoiser) -> list[tuple[float, torch.Tensor]]:
        digits = torch.arange(10)
        return Sampler(student, steps=NFES[-1]).trajectory(labels=digits, seed=self.seed)

    def _config(self, budget: Budget) -> dict[str, Any]:
        config: dict[str, Any] = {
            "budget": self.budget,
            "seed": self.seed,
            "sigma range": SIGMA_RANGE,
            "network": {"preset": budget.net, **budget.net_options},
            "teacher": asdict(self._own(budget.teacher)),
            "student": asdict(self._own(budget.student)),
            "objective": fields_to_json(budget.objective),
        }
        if self.gan:
            gan = {
                "train": asdict(self._own(budget.gan_student)),
                "objective": fields_to_json(budget.gan_objective.gan),
            }
            config["with the adversarial term"] = gan
        return config

    def _own(self, config: TrainConfig) -> TrainConfig:
        precision = "bf16" if fast_dtype() == torch.bfloat16 else "fp32"
        return config.replace(seed=self.seed, precision=precision)


def _seconds(folder: Path) -> float:
    path = folder / "seconds.json"
    return float(json.loads(path.read_text())) if path.is_file() else 0.0


def _add_seconds(folder: Path, seconds: float) -> None:
    (folder / "seconds.json").write_text(json.dumps(_seconds(folder) + seconds))


def _log(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _print_rows(real: dict[str, Any], measured: list[Measured]) -> None:
    from .evaluate import table

    rows = [("real / real", real)]
    rows += [(f"{m.row.name}, NFE {m.row.nfe}", dict(m.row.metrics)) for m in measured]
    print(table(rows))
