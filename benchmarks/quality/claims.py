"""What the papers say, and what the rows say about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from .methods import NOISE_SIZES, noise_name
from .records import Row
from .run import NFES, NOISE

JUDGED = {"mixture": "sliced_wasserstein", "digits": "1nn"}  # smaller is better
WORDS = {"sliced_wasserstein": "sliced Wasserstein distance", "1nn": "1-NN accuracy"}


@dataclass(frozen=True)
class Finding:
    """One claim in one world.

    Attributes:
        claim: what is said.
        world: where it was looked for.
        holds: how many seeds show it.
        seeds: of how many.
        figures: the numbers.
    """

    claim: str
    world: str
    holds: int
    seeds: int
    figures: str

    @property
    def verdict(self) -> str:
        """In words."""
        if self.holds == self.seeds:
            return "seen with every seed"
        return "not seen" if self.holds == 0 else f"seen with {self.holds} of {self.seeds} seeds"


class Table:
    """Rows by world, method and seed."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = {row.key: row for row in rows}

    def seeds(self, world: str, *methods: str) -> list[int]:
        """Seeds that all the methods have."""
        sets = [{s for w, m, s in self.rows if (w, m) == (world, method)} for method in methods]
        return sorted(set.intersection(*sets)) if sets else []

    def value(self, world: str, method: str, seed: int, nfe: int | str, name: str) -> float:
        """One number."""
        return self.rows[world, method, seed].measures[str(nfe)][name]


def findings(rows: Sequence[Row]) -> Iterator[Finding]:
    """What the rows say about each claim, world by world; nothing where rows are missing."""
    table = Table(rows)
    for claim, look in CLAIMS:
        for world, measure in JUDGED.items():
            found = look(table, world, measure)
            if found is not None:
                holds, seeds, figures = found
                yield Finding(claim, world, holds, seeds, figures)


Look = Callable[[Table, str, str], tuple[int, int, str] | None]


def _better(good: str, bad: str, nfe: int = 1, name: str | None = None) -> Look:
    def look(table: Table, world: str, measure: str) -> tuple[int, int, str] | None:
        seeds, measured = table.seeds(world, good, bad), name or measure
        pairs = []
        for seed in seeds:
            try:
                pairs.append([table.value(world, m, seed, nfe, measured) for m in (good, bad)])
            except KeyError:
                return None
        if not pairs:
            return None
        means = [fmean(column) for column in zip(*pairs)]
        words = WORDS.get(measured, measured.replace("_", " "))
        figures = f"{words} {means[0]:.3f} ({good}) against {means[1]:.3f} ({bad})"
        return sum(a < b for a, b in pairs), len(pairs), figures

    return look


def _improves(method: str, sign: int) -> Look:
    """From one call to eight: sign 1 for better, -1 for worse or the same within 5 %."""

    def look(table: Table, world: str, measure: str) -> tuple[int, int, str] | None:
        seeds = table.seeds(world, method)
        if not seeds:
            return None
        first, last = (
            [table.value(world, method, seed, nfe, measure) for seed in seeds]
            for nfe in (NFES[0], NFES[-1])
        )
        gains = [(a - b) / a for a, b in zip(first, last)]
        holds = sum(gain > 0.05 if sign > 0 else gain < 0.05 for gain in gains)
        means = [
            fmean(table.value(world, method, seed, nfe, measure) for seed in seeds) for nfe in NFES
        ]
        path = ", ".join(f"{value:.3f}" for value in means)
        return holds, len(seeds), f"{WORDS[measure]} at NFE 1, 2, 4, 8: {path}"

    return look


def _quieter() -> Look:
    def look(table: Table, world: str, measure: str) -> tuple[int, int, str] | None:
        arms = ["ECT", *map(noise_name, NOISE_SIZES)]
        seeds = table.seeds(world, *(NOISE + arm for arm in arms))
        if not seeds:
            return None
        traces = [
            [table.value(world, NOISE + arm, seed, "", "trace") for arm in arms] for seed in seeds
        ]
        holds = sum(all(a > b for a, b in pairwise(row)) for row in traces)
        shares = [fmean(row[i] / row[0] for row in traces) for i in range(1, len(arms))]
        figures = "trace of the gradient's covariance, ECT = 1: " + ", ".join(
            f"{share:.2f} with {n} images" for share, n in zip(shares, NOISE_SIZES)
        )
        return holds, len(seeds), figures

    return look


CLAIMS: tuple[tuple[str, Look], ...] = (
    ("CTM improves with the number of network calls", _improves("CTM", 1)),
    ("CM (CD) does not improve with the number of network calls", _improves("CD", -1)),
    ("CTM with 8 network calls is better than CD with 8", _better("CTM", "CD", 8)),
    ("denoising (DSM) improves CTM with one call", _better("CTM", "CTM alone")),
    ("denoising (DSM) improves CTM with 8 calls", _better("CTM", "CTM alone", 8)),
    ("the GAN term improves CTM with one call", _better("CTM + GAN", "CTM")),
    ("SCT lowers the variance of the gradient, the more the larger its set", _quieter()),
    ("SCT improves on ECT with one call", _better("SCT", "ECT")),
    ("TCM improves one-step samples over its stage 1", _better("TCM", "TCM stage 1")),
    (
        "TCM improves one-step samples over stage 1 trained as long",
        _better("TCM", "TCM stage 1, longer"),
    ),
)
