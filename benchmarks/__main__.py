"""The command line of the benchmarks."""

from dataclasses import dataclass

import tyro

from .bench_kernels import measure, report


@dataclass(frozen=True)
class Kernels:
    """Time every backend of every op, interleaved, against the readable reference."""

    op: str | None = None  # only this op
    rounds: int = 15  # timed rounds; each runs every backend once


def main() -> None:
    """Run one benchmark."""
    options = tyro.extras.subcommand_cli_from_dict({"kernels": Kernels}, prog="benchmarks")
    report(measure(options.op, options.rounds))


if __name__ == "__main__":
    main()
