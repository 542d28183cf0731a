"""`TrainConfig`: how to train, apart from the objective, the networks and the data."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ..registry import fields_from_json, fields_to_json

Precision = Literal["fp32", "bf16", "fp16"]
Optimizer = Literal["radam", "adam"]
AlarmMode = Literal["warn", "stop", "off"]

# Compute dtype of student, target and averages; None is the dtype of the weights, float32.
PRECISIONS: dict[str, torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
OPTIMIZERS = ("radam", "adam")  # see `trainer.optimizer`
ALARMS = ("warn", "stop", "off")  # see `trainer.alarms`


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Defaults are those of the published CIFAR-10 CTM runs where they have one.

    Source: Kim et al. 2024 (CTM), Table 4; its published code for the optimizer.

    Raises:
        ValueError: for a value outside the range stated beside it.
    """

    steps: int = 10_000  # optimizer steps in all, >= 1
    batch_size: int = 256  # images per optimizer step, over all processes
    # Results do not depend on it, except that dropout masks are drawn per microbatch.
    microbatch: int | None = None  # images per backward pass of one process; None: all at once
    optimizer: Optimizer = "radam"  # radam | adam
    lr: float = 4e-4  # learning rate, > 0
    betas: tuple[float, float] = (0.9, 0.999)  # optimizer's averaging factors, in [0, 1)
    eps: float = 1e-8  # optimizer's denominator offset, > 0
    lr_warmup: int = 0  # steps of linear learning-rate warm-up
    lr_cooldown: int = 0  # last steps, over which the learning rate falls linearly to 0
    lr_decay_from: int = 0  # steps after which the learning rate falls as 1/sqrt(step); 0: never
    clip_grad: float | None = None  # largest gradient norm; None: no clipping
    ema: tuple[float, ...] = (0.999,)  # decay per step of each average of the student
    ema_halflife_kimg: tuple[float, ...] = ()  # further averages, half-life in thousand images
    ema_rampup: float = 0.05  # those half-lives are at most this share of the images seen
    target_ema: float = 0.999  # decay per step of the target network
    augment: float = 0.0  # share of images per transform of `data.augment`, in [0, 1]; DSM only
    precision: Precision = "fp32"  # fp32 | bf16 | fp16; weights and averages stay float32
    one_pass: bool = False  # differentiate all terms in one pass; needs a batch that is not split
    capture: bool = False  # run every microbatch as a CUDA graph; nothing changes on a CPU
    seed: int = 0  # of data order, noise and dropout
    checkpoint_every: int = 1000  # steps; 0: only at the end and when stopped
    keep: int = 2  # checkpoints kept, >= 1
    log_every: int = 50  # steps per line of the log
    preview_every: int = 0  # steps between calls of the callbacks; 0: only at the end
    progress_bar: bool = True  # show a progress bar on the first process
    alarms: AlarmMode = "warn"  # warn | stop | off: of divergence, GAN collapse, drifting averages
    tensorboard: bool = False  # write events beside log.jsonl; needs the extra `log`

    def __post_init__(self) -> None:
        _choice("optimizer", self.optimizer, OPTIMIZERS)
        _choice("precision", self.precision, PRECISIONS)
        _choice("alarms", self.alarms, ALARMS)
        for name in ("steps", "batch_size", "keep", "log_every"):
            _whole(name, getattr(self, name), 1)
        for name in (
            "lr_warmup",
            "lr_cooldown",
            "lr_decay_from",
            "checkpoint_every",
            "preview_every",
        ):
            _whole(name, getattr(self, name), 0)
        _whole("seed", self.seed, None)
        if self.microbatch is not None:
            _whole("microbatch", self.microbatch, 1)
        for name in ("lr", "eps", "ema_rampup"):
            _positive(name, getattr(self, name))
        if self.clip_grad is not None:
            _positive("clip_grad", self.clip_grad)
        for value in self.ema_halflife_kimg:
            _positive("ema_halflife_kimg", value)
        if not _number(self.augment) or not 0 <= self.augment <= 1:
            raise ValueError(f"augment must be in [0, 1], got {self.augment!r}")
        if len(self.betas) != 2:
            raise ValueError(f"betas must be two numbers, got {self.betas}")
        for name, values in (
            ("ema", self.ema),
            ("target_ema", (self.target_ema,)),
            ("betas", self.betas),
        ):
            for value in values:
                _decay(name, value)
        for name in ("progress_bar", "one_pass", "capture", "tensorboard"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if self.one_pass and (self.capture or self.precision == "fp16"):
            raise ValueError(
                "one_pass=True cannot be combined with capture=True, nor with precision='fp16', "
                "whose range adaptive weights may leave"
            )

    def replace(self, **changes: Any) -> TrainConfig:
        """Copy with some fields changed.

        Raises:
            ValueError: for an unknown field.
        """
        known = [field.name for field in dataclasses.fields(self)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise ValueError(f"unknown training options {unknown}; choose from {known}")
        frozen: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()
        }
        return dataclasses.replace(self, **frozen)

    def learning_rate(self, step: int) -> float:
        """Learning rate of the update that follows `step` finished steps."""
        warm = min(1.0, (step + 1) / self.lr_warmup) if self.lr_warmup else 1.0
        cool = min(1.0, (self.steps - step) / self.lr_cooldown) if self.lr_cooldown else 1.0
        decay = math.sqrt(self.lr_decay_from / max(step, self.lr_decay_from, 1))
        return self.lr * max(0.0, min(warm, cool)) * (decay if self.lr_decay_from else 1.0)

    def to_json(self) -> dict[str, Any]:
        """JSON form, read back by `from_json`."""
        return fields_to_json(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainConfig:
        """Config written by `to_json`.

        Raises:
            ValueError: for unknown fields or bad values.
        """
        config: TrainConfig = fields_from_json(cls, data, "training options")
        return config

    @classmethod
    def read(cls, path: str | Path) -> TrainConfig:
        """Config of a `config.json` that a run has written, or of a file with its fields alone.

        Raises:
            ValueError: for a file that is not such a JSON file.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read the training options in {path}: {error}") from None
        if not isinstance(data, dict):
            raise ValueError(f"{path} holds no training options")
        return cls.from_json(data.get("train", data))


def _choice(name: str, value: Any, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; choose from {sorted(allowed)}")


def _whole(name: str, value: Any, least: int | None) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or (least is not None and value < least):
        bound = "" if least is None else f" of at least {least}"
        raise ValueError(f"{name} must be a whole number{bound}, got {value!r}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _positive(name: str, value: Any) -> None:
    if not _number(value) or value <= 0:
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def _decay(name: str, value: Any) -> None:
    if not _number(value) or not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}")
