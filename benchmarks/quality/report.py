"""`docs/quality.md`, written from the rows: tables, claims and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..page import NOTHING
from ..record import RESULTS
from .claims import findings
from .curves import quality_plots
from .methods import METHODS, WORLDS
from .records import REAL, TEACHER, Row
from .run import NFES, picture_name

PAGE = RESULTS.parents[1] / "docs" / "quality.md"
MEASURES = {
    "mixture": ("sliced_wasserstein", "map_error"),
    "digits": ("1nn", "precision", "recall", "class_agreement", "copies"),
}
TITLES = {
    "sliced_wasserstein": "Sliced Wasserstein-2 distance to fresh samples (0 is perfect)",
    "map_error": "Distance to the exact end of the same trajectory (0 is perfect)",
    "1nn": "1-NN accuracy (0.5 is perfect)",
    "precision": "Precision",
    "recall": "Recall",
    "class_agreement": "Agreement with the class that was asked for",
    "copies": "Share of copies of real images",
}
INTRO = """# Quality of the methods, at equal compute

Written by `python -m benchmarks quality-page` from the rows in `benchmarks/results/quality/`,
which `python -m benchmarks quality` makes. What it can say is limited: tiny networks, two small
data sets, short runs. It says which claims of the papers can be seen here, and which cannot.

- Every student has one architecture and begins with the weights of one diffusion teacher (of the
  same seed), also where the papers begin with random weights (CT, iCT, MeanFlow); flow maps have
  an embedding of the destination more.
- Every run may use as many *network evaluations*: a forward pass of one image is 1, a backward pass
  2 more, a forward-mode derivative 1 more; students, targets and teachers all count. A method whose
  step costs more makes fewer steps. Counted, not estimated.
- Objectives, rates and schedules are the presets for the digits (`ctm-fast train --preset
  NAME-digits --dry-run`), not tuned for this page. On the mixture distances are squared (CTM:
  pseudo-Huber 0.03; MeanFlow without its adaptive weight), as a norm asks for the median of its
  targets, which in many dimensions is their mean and in two is not. MeanFlow's was the one setting
  changed after a first result: with its weight it had a sliced Wasserstein distance of 0.072 with
  one call and 0.189 with eight. sCT keeps its normalised tangents and what they may cost it there.
- Sampling is the library's default for each kind: consistency models add noise at Karras levels,
  flow maps (CTM, MeanFlow, AYF) jump without noise; the teacher takes Euler steps.
- Numbers are means over seeds, +- half the range; those without were made with one seed only. The
  seed is that of teacher, student, data order and noise.
"""
ABOUT = {
    "mixture": "Eight Gaussians of unequal weight and width on a ring in the plane. Samples, the "
    "denoiser and trajectories are exact, so the error of a map has a meaning: the root mean "
    "square distance between a sample and the point at which the exact trajectory from the same "
    "noise ends "
    "(only where no noise is added on the way).",
    "digits": "The 1,797 real 8x8 digits, with classes. The measures are those of the demo: 1,796 "
    "samples against two halves of the data, in pixels.",
}


def page(rows: Sequence[tuple[Row, dict[str, Any]]]) -> str:
    """The whole page."""
    lines = [INTRO, *(_claims([row for row, _ in rows]) if rows else [NOTHING])]
    for world in WORLDS:
        own = [(row, about) for row, about in rows if row.world == world]
        if own:
            lines += _world(world, own)
    return "\n".join(lines).rstrip() + "\n"


def _claims(rows: Sequence[Row]) -> Iterator[str]:
    yield from ("## What the papers say, and what is seen here", "")
    yield from ("| claim | on | verdict | figures |", "|---|---|---|---|")
    for found in findings(rows):
        yield f"| {found.claim} | {found.world} | {found.verdict} | {found.figures} |"
    yield ""


def _world(world: str, rows: Sequence[tuple[Row, dict[str, Any]]]) -> Iterator[str]:
    yield from (f"## {world.capitalize()}", "", ABOUT[world], "", _where(rows), "")
    for plot in quality_plots([row for row, _ in rows]):
        yield from (f"![{plot.title}](quality/{plot.name}.svg)", "")
    methods = {name: _of(rows, name) for name in (TEACHER, *METHODS) if _of(rows, name)}
    real = next((row.measures[""] for row, _ in rows if row.method == REAL), {})
    for measure in MEASURES[world]:
        # A measure that only some numbers of calls have is shown for those.
        yield from (f"### {TITLES[measure]}", "")
        if measure in real:
            yield from (f"Real data against real data: {real[measure]:.3f}.", "")
        yield "| method | " + " | ".join(f"NFE {nfe}" for nfe in NFES) + " |"
        yield "|---" * (len(NFES) + 1) + "|"
        for name, own in methods.items():
            cells = [_cell(own, str(nfe), measure) for nfe in NFES]
            yield f"| {name} | " + " | ".join(cells) + " |"
        yield ""
        heun = _cell(methods.get(TEACHER, []), "35", measure)
        if heun:
            yield from (f"The teacher with 35 network calls (Heun): {heun}.", "")
    yield from ("### What each run took", "", "| method | about | steps | evaluations | seconds |")
    yield "|---|---|---|---|---|"
    for name, own in methods.items():
        if name != TEACHER:
            steps, spent, seconds = (
                fmean(getattr(row, field) for row in own)
                for field in ("steps", "evaluations", "seconds")
            )
            about = METHODS[name].about
            yield f"| {name} | {about} | {steps:.0f} | {spent:.0f} | {seconds:.0f} |"
    yield from ("", "### Samples of the first seed", "")
    yield {
        "mixture": "How many of 20,000 samples lie in each cell, with 1, 2, 4 and 8 network calls.",
        "digits": "A row for 1, 2, 4 and 8 network calls, a column for each class.",
    }[world]
    yield ""
    shown = [name for name in methods if (PAGE.parent / _picture(world, name)).exists()]
    for name in shown:
        yield from (f"{name}<br>![{name}]({_picture(world, name)})", "")


def _picture(world: str, method: str) -> str:
    return str(Path("quality") / picture_name(world, method))


def _of(rows: Sequence[tuple[Row, dict[str, Any]]], method: str) -> list[Row]:
    return [row for row, _ in rows if row.method == method]


def _cell(rows: Sequence[Row], nfe: str, measure: str) -> str:
    """Mean and half the range; empty where no row has it."""
    values = [row.measures[nfe][measure] for row in rows if measure in row.measures.get(nfe, {})]
    if not values:
        return ""
    spread = (max(values) - min(values)) / 2
    return f"{fmean(values):.3f}" + (f" +- {spread:.3f}" if len(values) > 1 else "")


def _where(rows: Sequence[tuple[Row, dict[str, Any]]]) -> str:
    """Machine, versions, commits, budget."""
    abouts = [about for _, about in rows]
    commits = sorted({f"{a['commit']}{' with changes' if a['dirty'] else ''}" for a in abouts})
    budgets = sorted({f"{row.budget:g}" for row, _ in rows if row.method in METHODS})
    sizes = sorted({str(row.batch_size) for row, _ in rows})
    machines = sorted({f"{a['machine']}, torch {a['torch']}" for a in abouts})
    seeds = len({row.seed for row, _ in rows})
    return (
        f"{'; '.join(machines)}; float32; commit {', '.join(commits)}; {seeds} seeds; budget "
        f"{', '.join(budgets)} network evaluations per image of a batch of {', '.join(sizes)}."
    )
