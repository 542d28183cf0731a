"""`ctm-fast train`: an EDM teacher from data, or a CTM from a teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

from .. import data as datasets
from .. import models
from ..checkpoints import load, save
from ..data import ImageDataset
from ..denoiser import Denoiser
from ..inference import freeze
from ..losses import CTM, DSM
from ..precond import EDM, Preconditioning
from ..sigmas import SIGMA_MAX, SIGMA_MIN
from ..trainer import TrainConfig, Trainer
from .pictures import preview

AnyObjective = (
    Annotated[CTM, tyro.conf.subcommand("ctm", description="Distil a teacher into a CTM.")]
    | Annotated[DSM, tyro.conf.subcommand("dsm", description="Train an EDM diffusion model.")]
)


@dataclass(frozen=True)
class Train:
    """Train a model. The run is a folder, and the same command continues it.

    Choose the loss by `objective:dsm` (an EDM teacher) or `objective:ctm` (distil one) after the
    options; the options of the loss follow it.
    """

    objective: AnyObjective
    out: Path  # folder of the run: checkpoints, log.jsonl, config.json, model.safetensors
    data: str = "digits"  # digits, photo-patches, a folder of images, or an EDM .zip
    net: str = "digits"  # network preset, for a model trained from random weights
    teacher: Path | None = None  # model to distil; what a CTM starts from
    teacher_dtype: str = "float32"  # the teacher computes in it: float32 | bfloat16 | float16
    train: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)

    def run(self) -> int:
        """Train and write `model.safetensors`; returns 0."""
        dataset = datasets.open(self.data)
        teacher = None if self.teacher is None else load(self.teacher)
        student = self._student(dataset, teacher)
        if teacher is not None:
            teacher = freeze(teacher, _dtype(self.teacher_dtype))
        needs_teacher = "teacher" in self.objective.needs
        trainer = Trainer(
            self.objective,
            student,
            teacher=teacher if needs_teacher else None,
            data=dataset,
            out=self.out,
            config=self.train,
            callbacks=[preview(self.out / "previews", dataset)],
        )
        trainer.fit()
        if trainer.world.first:
            path = save_average(trainer, self.out / "model.safetensors", dataset)
            print(f"wrote {path}")
        return 0

    def _student(self, dataset: ImageDataset, teacher: Denoiser | None) -> Denoiser:
        if not isinstance(self.objective, CTM):
            if teacher is not None:
                raise ValueError(
                    "objective:dsm trains a teacher and takes none; leave --teacher out"
                )
            return new_denoiser(self.net, dataset, self.train.seed)
        if teacher is not None:
            return models.student_from(teacher, self.train.seed)
        if "teacher" in self.objective.needs:
            raise ValueError(
                "objective:ctm needs --teacher MODEL.safetensors, or --objective.self-teacher "
                "heun_denoiser to train without one"
            )
        return new_denoiser(self.net, dataset, self.train.seed, destination=True)


def new_denoiser(
    name: str,
    dataset: ImageDataset,
    seed: int,
    destination: bool = False,
    sigma_range: tuple[float, float] = (SIGMA_MIN, SIGMA_MAX),
    **overrides: object,
) -> Denoiser:
    """Denoiser with random weights for a data set: its shape, classes and measured sigma_data."""
    channels, _, resolution = dataset.shape
    net = models.build(
        name,
        seed=seed,
        img_channels=channels,
        img_resolution=resolution,
        label_dim=dataset.label_dim,
        destination=destination,
        **overrides,
    )
    # The published ADM networks are told 250 ln(sigma), the others ln(sigma) / 4.
    embedding = "log_250" if isinstance(net, models.ADMUNet) else "quarter_log"
    precond = Preconditioning(EDM(dataset.sigma_data), noise_embedding=embedding)
    return Denoiser(net, precond, sigma_min=sigma_range[0], sigma_max=sigma_range[1])


def save_average(trainer: Trainer, path: Path, dataset: ImageDataset) -> Path:
    """Write the trainer's first average with where it comes from; returns the path."""
    config = trainer.config
    return save(
        trainer.ema,
        path,
        data=dataset.name,
        classes=dataset.num_classes,
        objective=type(trainer.objective).__name__,
        step=trainer.step,
        images_seen=trainer.images_seen,
        ema_decay=config.ema[0] if config.ema else None,
        ema_halflife_kimg=None if config.ema else next(iter(config.ema_halflife_kimg), None),
        seed=config.seed,
    )


def _dtype(name: str) -> torch.dtype:
    allowed = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in allowed:
        raise ValueError(f"unknown teacher_dtype {name!r}; choose from {sorted(allowed)}")
    return allowed[name]
