"""The commands `models`, `solve`, `step`, `sampler` and `all`: options, and what they start."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from . import bench_models, bench_sampler, bench_solve, bench_step
from .arms import DTYPES, fresh_caches
from .machine import facts
from .outcome import Outcome, default_file
from .outcome_table import report, summary

Dtype = Literal["bfloat16", "float16", "float32"]
Several = tuple[int, ...]


@dataclass(frozen=True)
class Common:
    """Options that all have."""

    networks: tuple[str, ...] = ()  # presets of ctm_fast.models; the published ones by default
    batches: Several = ()  # images per call
    dtype: Dtype = "bfloat16"  # that all arms compute in whose name does not end in fp32
    device: Literal["cpu", "cuda"] | None = None  # the GPU if there is one
    rounds: int | None = None  # timed rounds; each runs every arm once
    arms: tuple[str, ...] = ()  # only these, for example: official eager ours
    compile: bool = True  # also torch.compile, which takes minutes for a large network
    threads: int | None = None  # of torch; as many as torch takes by default
    peer: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()  # clone of another code base
    out: Path | None = None  # JSON lines are appended here; a file in benchmarks/results/ if None

    def run(self) -> int:
        """Exit status: 1 if an arm failed."""
        device = self.prepare()
        about = facts(device)
        out = self.out or default_file(about)
        for name, value in about.items():
            if value is not None:
                print(f"{name}: {value}")
        with fresh_caches():
            passed, seen = report(self.measure(device), about, out)
        print("\n" + "\n".join(summary(seen)))
        print(f"written to {out.name}")
        return 0 if passed else 1

    def prepare(self) -> str:
        """The device, after the options were checked and the threads set.

        Raises:
            ValueError: for an option outside its range.
        """
        for name in ("threads", "rounds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if any(batch < 1 for batch in self.batches):
            raise ValueError(f"batches must be at least 1, got {self.batches}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is 'cuda', but there is no CUDA GPU")
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    def measure(self, device: str) -> Iterator[list[Outcome]]:
        """Outcomes of one case after another."""
        raise NotImplementedError

    def shared(self, device: str) -> dict[str, Any]:
        """What all benchmarks are told; options that were not given are left out."""
        given: dict[str, Any] = {
            "networks": self.networks,
            "batches": self.batches,
            "rounds": self.rounds,
            "arms": self.arms,
            "peers": self.peer,
        }
        given = {key: value for key, value in given.items() if value}
        fixed = {"dtype": DTYPES[self.dtype], "device": device, "compiled": self.compile}
        return given | fixed


@dataclass(frozen=True)
class Models(Common):
    """Time one call of every network: as published, eager, compiled, and ours."""

    def measure(self, device: str) -> Iterator[list[Outcome]]:
        """Outcomes of one case after another."""
        options = self.shared(device)
        if device == "cuda":
            options = {"batches": (1, 8, 11, 32, 64, 128), "rounds": 21} | options
        yield from bench_models.measure(bench_models.Settings(**options))


@dataclass(frozen=True)
class Solve(Common):
    """Time the teacher's solve: n Heun steps of two network calls for every image."""

    steps: Several = ()  # Heun steps n of every image
    microbatch: int = 11  # of the official arrangement

    def measure(self, device: str) -> Iterator[list[Outcome]]:
        """Outcomes of one case after another."""
        options = self.shared(device) | {"microbatch": self.microbatch}
        if device == "cuda":
            options = {"batches": (11, 64, 512), "steps": (8, 17), "rounds": 9} | options
        options |= {"steps": self.steps} if self.steps else {}
        yield from bench_solve.measure(bench_solve.Settings(**options))


@dataclass(frozen=True)
class Step(Common):
    """Time CTM's generator step: solve, losses, gradients, optimizer and averages."""

    steps: Several = ()  # Heun steps n of every image; 17 by default
    microbatch: int = 11  # of the official arrangement
    own_microbatch: int | None = None  # of all other arms; the whole batch by default (GPU: 64)
    distance: Literal["pseudo_huber", "l2"] = "pseudo_huber"  # of the consistency term

    def measure(self, device: str) -> Iterator[list[Outcome]]:
        """Outcomes of one case after another."""
        options = self.shared(device)
        own = self.own_microbatch
        if device == "cuda":
            options = {"batches": (256,), "rounds": 7} | options
            own = own or 64
        options |= {"microbatch": self.microbatch, "own_microbatch": own}
        options |= {"distance": self.distance} | ({"steps": self.steps} if self.steps else {})
        yield from bench_step.measure(bench_step.Settings(**options))


@dataclass(frozen=True)
class Samplers(Common):
    """Time few-step sampling, from noise to images."""

    steps: Several = ()  # network calls per image; 1 and 2 by default

    def measure(self, device: str) -> Iterator[list[Outcome]]:
        """Outcomes of one case after another."""
        options = self.shared(device) | ({"steps": self.steps} if self.steps else {})
        yield from bench_sampler.measure(bench_sampler.Settings(**options))


@dataclass(frozen=True)
class All(Common):
    """Time networks, solve, step and sampler, each with its usual cases."""

    networks: tuple[str, ...] = field(default=())  # denoisers; sampled is the ctm- one of the name

    def measure(self, device: str) -> Iterator[list[Outcome]]:
        """Outcomes of one case after another."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(Common)}
        jumping = tuple(n if n.startswith("ctm-") else f"ctm-{n}" for n in self.networks)
        resting = tuple(n for n in self.networks if not n.startswith("ctm-"))
        parts: list[Common] = [Models(**given)]
        if resting or not self.networks:
            parts += [Solve(**given | {"networks": resting}), Step(**given | {"networks": resting})]
        parts.append(Samplers(**given | {"networks": jumping}))
        yield from itertools.chain.from_iterable(part.measure(device) for part in parts)


COMMANDS: dict[str, Any] = {
    "models": Models,
    "solve": Solve,
    "step": Step,
    "sampler": Samplers,
    "all": All,
}
