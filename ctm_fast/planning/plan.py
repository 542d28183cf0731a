"""What a training run will cost, in words: evaluations, work, memory, time."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ..losses import DSM
from ..models.presets import PRESETS
from ..trainer.config import TrainConfig
from .calls import Calls, calls_of, mean_teacher_steps
from .flops import parameters
from .memory import Memory, Networks, memory_of
from .rates import Rate, fitting, rates
from .work import step_flops

OTHERS = (1, 4, 16, 64)  # microbatches whose memory is told beside the run's
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Plan:
    """A run before it is started.

    Args:
        objective: of the run.
        network: name of the network preset.
        options: of its configuration.
        config: how it is trained.
        teacher_dtype: what the teacher computes in.
        processes: among which the batch is divided; by default those of the launcher.
    """

    objective: Any
    network: str
    options: Mapping[str, Any]
    config: TrainConfig
    teacher_dtype: torch.dtype = torch.float32
    processes: int = dataclasses.field(default_factory=lambda: int(os.getenv("WORLD_SIZE", "1")))

    @cached_property
    def calls(self) -> Calls:
        """Evaluations per image, on average over the run."""
        return calls_of(self.objective, self.config.steps)

    @cached_property
    def networks(self) -> Networks:
        """Configurations of student and teacher.

        Raises:
            ValueError: for an unknown network or option.
        """
        if self.network not in PRESETS:
            raise ValueError(f"unknown network {self.network!r}; choose from {sorted(PRESETS)}")
        config = PRESETS[self.network]
        known = {field.name for field in dataclasses.fields(config)}
        unknown = sorted(set(self.options) - known)
        if unknown:
            raise ValueError(f"network {self.network!r} has no {unknown}; it has {sorted(known)}")
        plain: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in self.options.items()}
        kind = getattr(self.objective, "student_kind", None)
        jumps = kind == "trajectory" or (kind is None and not isinstance(self.objective, DSM))
        student = dataclasses.replace(config, **{"destination": jumps, **plain})
        wanted = "teacher" in self.objective.needs
        teacher = dataclasses.replace(student, destination=False) if wanted else None
        return Networks(student, teacher, self.teacher_dtype)

    @cached_property
    def flops(self) -> float:
        """Floating-point operations of the whole run."""
        networks = self.networks
        each = step_flops(self.calls, networks.student, networks.teacher, self.objective)
        return each * self.config.batch_size * self.config.steps

    def memory(self, microbatch: int | None = None) -> Memory:
        """Of one process; with another microbatch than that of the configuration if it is given."""
        return memory_of(
            self.objective,
            self.calls,
            self.networks,
            self.config,
            processes=self.processes,
            microbatch=microbatch,
        )

    def rows(self) -> list[tuple[str, str]]:
        """(what, text) of everything that is told."""
        return [*self._work(), *self._space(), *self._time()]

    def _work(self) -> Iterator[tuple[str, str]]:
        calls, config, networks = self.calls, self.config, self.networks
        images = config.batch_size * config.steps
        steps = mean_teacher_steps(self.objective)
        yield (
            "parameters",
            _parts(
                ("student", parameters(networks.student)),
                ("teacher", 0 if networks.teacher is None else parameters(networks.teacher)),
            ),
        )
        yield "images", f"{config.batch_size} a step, {_short(images)} in all"
        yield (
            "evaluations an image",
            _calls(calls) + ("" if steps is None else f" (E[n] = {steps:.4g} teacher steps)"),
        )
        teacher, student = calls.teacher, calls.trained + calls.through + calls.frozen
        for name, factor in (("a step", config.batch_size), ("in all", images)):
            values = ("teacher", teacher * factor), ("student and target", student * factor)
            yield f"evaluations {name}", _parts(*values)
        flops = self.flops
        yield (
            "FLOPs",
            (
                f"{_short(flops / images)} an image, {_short(flops / config.steps)} a step, "
                f"{flops:.3g} in all"
            ),
        )

    def _space(self) -> Iterator[tuple[str, str]]:
        share = -(-self.config.batch_size // self.processes)
        micro = min(self.config.microbatch or share, share)
        found = self.memory()
        parts = {k: v for k, v in dataclasses.asdict(found).items() if v}
        of = "1 process" if self.processes == 1 else f"each of {self.processes} processes"
        yield (
            "memory",
            f"{_gib(found.total)} of {of}, microbatch {micro}: "
            + ", ".join(f"{name} {_gib(value)}" for name, value in parts.items()),
        )
        others = [m for m in OTHERS if m < micro]
        if others:
            yield (
                "memory, other microbatches",
                ", ".join(f"{m}: {_gib(self.memory(m).total)}" for m in others),
            )

    def _time(self) -> Iterator[tuple[str, str]]:
        flops, dtype = self.flops, DTYPES[self.config.precision]
        table = rates()
        found = fitting(self.network, dtype, gpu=True, table=table)
        if not any(rate.gpu for rate in table):
            yield "GPU hours", "no GPU result is committed; not estimated"
        elif not found:
            yield "GPU hours", f"no GPU result for {self.network} in {dtype}; not estimated"
        for rate in found:
            yield "GPU hours", f"{rate.hours(flops):.3g} at {rate}"
        for rate in fitting(self.network, dtype, gpu=False, table=table):
            yield "CPU time", f"{_time(rate, flops)} at {rate}"


def _calls(calls: Calls) -> str:
    names = {
        "teacher": "teacher {}",
        "trained": "student with gradient {}",
        "through": "with gradient to the input {}",
        "frozen": "without gradient {}",
        "tangents": "in forward mode {}",
        "features": "teacher's encoder {}",
        "features_through": "with gradient {}",
        "judged": "discriminator {}",
        "judged_through": "discriminator with gradient to the image {}",
    }
    values = dataclasses.asdict(calls)
    return ", ".join(text.format(f"{values[k]:.3g}") for k, text in names.items() if values[k])


def _parts(*values: tuple[str, float]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in values if value)


def _short(value: float) -> str:
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.4g} {letter}"
    return f"{value:.4g}"


def _gib(value: int) -> str:
    return f"{value / 2**30:.3g} GiB"


def _time(rate: Rate, flops: float) -> str:
    hours = rate.hours(flops)
    for size, unit in ((24 * 365.25, "years"), (24.0, "days"), (1.0, "hours")):
        if hours >= 2 * size:
            return f"{hours / size:.3g} {unit}"
    return f"{hours * 60:.3g} minutes"
