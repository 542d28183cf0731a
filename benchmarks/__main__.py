"""The command line of the benchmarks."""

from __future__ import annotations

import signal
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from . import commands
from .bench_kernels import Settings, measure
from .compare import compare, markdown
from .machine import facts, file_name
from .page import Page
from .quality.command import Quality, QualityPage
from .record import RESULTS
from .report import report


@dataclass(frozen=True)
class Kernels:
    """Time every backend of every op against plain PyTorch and other libraries, in turns."""

    op: str | None = None  # only this op
    case: str = ""  # only cases whose description contains this
    base: str | None = None  # another git revision, built in a temporary folder, timed in turns
    rounds: int = 15  # timed rounds; each runs every variant once
    device: Literal["cpu", "cuda"] | None = None  # the GPU if there is one
    gradients: bool = True  # also forward and backward together
    compile: bool = field(default_factory=torch.cuda.is_available)  # also torch.compile
    threads: int | None = None  # of torch; as many as torch takes by default
    variants: tuple[str, ...] = ()  # only these, and eager
    out: Path | None = None  # JSON lines are appended here; a file in benchmarks/results/ if None

    def run(self) -> int:
        """Exit status: 1 if a variant failed."""
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        settings = Settings(
            op=self.op,
            case=self.case,
            device=device,
            rounds=self.rounds,
            gradients=self.gradients,
            compiled=self.compile,
            base=self.base,
            variants=self.variants,
        )
        if self.threads is not None:
            if self.threads < 1:
                raise ValueError(f"threads must be at least 1, got {self.threads}")
            torch.set_num_threads(self.threads)
        about = facts(device)
        out = self.out or RESULTS / file_name(about)
        # Closed at once if printing fails, so that the process of the base ends.
        with closing(measure(settings)) as batches:
            return 0 if report(batches, about, out) else 1


@dataclass(frozen=True)
class Compare:
    """Ratios of the times of two result files."""

    before: Annotated[Path, tyro.conf.Positional]  # one file
    after: Annotated[Path, tyro.conf.Positional]  # the other one

    def run(self) -> int:
        """Exit status."""
        for line in compare(self.before, self.after):
            print(line)
        return 0


@dataclass(frozen=True)
class Table:
    """The markdown tables of one result file."""

    file: Annotated[Path, tyro.conf.Positional]  # what `kernels` wrote

    def run(self) -> int:
        """Exit status."""
        for line in markdown(self.file):
            print(line)
        return 0


COMMANDS: dict[str, Any] = {
    "kernels": Kernels,
    "quality": Quality,
    "quality-page": QualityPage,
    **commands.COMMANDS,
    "compare": Compare,
    "table": Table,
    "page": Page,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; the exit status is 1 if a variant failed, 2 for wrong use."""
    command = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="benchmarks", args=arguments)
    try:
        return command.run()
    except ValueError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmarks: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    # The temporary folder of --base is then removed as it is after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
