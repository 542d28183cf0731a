"""`ctm-fast train`: any objective of the library, from data or from a teacher."""

from __future__ import annotations

import functools
import json
import operator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import tyro

from ..checkpoints import load, save
from ..data import ImageDataset
from ..denoiser import Denoiser
from ..inference import freeze
from ..losses import OBJECTIVES, Objective
from ..presets import Preset, preset_named
from ..trainer import TrainConfig, Trainer
from .overrides import parsed_overrides
from .pictures import preview
from .resolved import resolved_table
from .sources import opened_data
from .students import new_denoiser as new_denoiser
from .students import student_for


def _choices() -> list[Any]:
    """Every objective as a subcommand, the most derived classes first.

    A preset's objective is the default of the first choice that it is an instance of.
    """
    found = [(name, OBJECTIVES[name]) for name in OBJECTIVES.names()]
    found.sort(key=lambda entry: -len(entry[1].__mro__))
    return [
        Annotated[cls, tyro.conf.subcommand(name, description=cls.__doc__.partition("\n")[0])]
        for name, cls in found
    ]


if TYPE_CHECKING:
    AnyObjective = Objective
else:
    AnyObjective = functools.reduce(operator.or_, _choices())


@dataclass(frozen=True)
class Train:
    """Train a model. The run is a folder, and the same command continues it.

    Choose the loss by `objective:NAME` after the options, for example `objective:dsm` (an EDM
    teacher) or `objective:ctm` (distil one); the options of the loss follow it. Or take all of it
    from a `--preset`, whose values are then the defaults; `--dry-run` shows them with their
    sources.
    """

    objective: AnyObjective
    out: Path | None = None  # folder of the run: checkpoints, log, model; with a preset runs/PRESET
    preset: str | None = None  # published hyper-parameters, for example ect-cifar10, ect-digits
    dry_run: bool = False  # print the configuration with its sources, and do nothing
    data: str | None = None  # digits (default), photo-patches, or a path, see docs/data.md
    data_options: tuple[str, ...] = ()  # KEY=VALUE, for example size=64 resize=adm flip=true
    net: str = "digits"  # network preset, for a model trained from random weights
    net_options: tuple[str, ...] = ()  # KEY=VALUE of its configuration, for example dropout=0.2
    teacher: Path | None = None  # model to distil, or whose weights the student begins with
    student: Path | None = None  # model of an earlier run, whose weights the student begins with
    teacher_dtype: str = "float32"  # the teacher computes in it: float32 | bfloat16 | float16
    weak: Path | None = None  # worse model that guides the teacher, for ayf and scm
    train: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)

    @classmethod
    def of_preset(cls, preset: Preset) -> Train:
        """The command whose options are a preset's."""
        return cls(
            objective=preset.objective(),
            preset=preset.name,
            data=preset.data,
            net=preset.network,
            net_options=tuple(f"{k}={json.dumps(v)}" for k, v in preset.net_options.items()),
            train=preset.train(),
        )

    def run(self) -> int:
        """Train and write `model.safetensors`; returns 0."""
        preset = None if self.preset is None else preset_named(self.preset)
        options = parsed_overrides(self.net_options)
        if self.dry_run:
            print(resolved_table(self, options, preset))
            return 0
        out = self.out or (Path("runs") / preset.name if preset else None)
        if out is None:
            raise ValueError("say where the run is kept: --out FOLDER")
        dataset = self._dataset(preset)
        teacher, student = (None if p is None else load(p) for p in (self.teacher, self.student))
        start = "random" if preset is None or student is not None else preset.start
        if start == "teacher" and teacher is None:
            raise ValueError(f"{self.preset} starts from a trained model: --teacher MODEL")
        if start == "student":
            raise ValueError(f"{self.preset} continues another run's model: --student MODEL")
        student = student_for(
            self.objective,
            dataset,
            teacher,
            student=student,
            net=self.net,
            options=options,
            seed=self.train.seed,
            sigma_range=None if preset is None else preset.sigma_range,
            sigma_data=None if preset is None else preset.sigma_data,
        )
        trainer = Trainer(
            self.objective,
            student,
            teacher=self._frozen(teacher) if "teacher" in self.objective.needs else None,
            weak=None if self.weak is None else self._frozen(load(self.weak)),
            data=dataset,
            out=out,
            config=self.train,
            callbacks=[preview(out / "previews", dataset)],
        )
        trainer.fit()
        if trainer.world.first:
            path = save_average(trainer, out / "model.safetensors", dataset)
            print(f"wrote {path}")
        return 0

    def _dataset(self, preset: Preset | None) -> ImageDataset:
        if self.data is None and preset is not None:
            raise ValueError(f"{preset.name} needs the data: --data, a folder or a file of images")
        return opened_data(self.data or "digits", self.data_options)

    def _frozen(self, model: Denoiser | None) -> Any:
        """The model as the trainer runs it; a first stage has to drop what its student drops."""
        dtype = _dtype(self.teacher_dtype)
        if model is None or model.kind == "consistency":
            return model
        return freeze(model, dtype)


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
        global_batch=config.batch_size,
        ema_decay=config.ema[0] if config.ema else None,
        ema_halflife_kimg=None if config.ema else next(iter(config.ema_halflife_kimg), None),
        seed=config.seed,
    )


def _dtype(name: str) -> torch.dtype:
    allowed = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in allowed:
        raise ValueError(f"unknown teacher_dtype {name!r}; choose from {sorted(allowed)}")
    return allowed[name]
