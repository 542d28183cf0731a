"""Plots of the measures over the number of network calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from statistics import fmean

from ..drawing import BLUES, GREYS, OTHERS, Plot
from .claims import JUDGED, WORDS
from .methods import METHODS, WORLDS
from .records import TEACHER, Row
from .run import NFES

PANELS = {
    "Teacher and flow maps": (
        *(TEACHER, "CTM", "CTM alone", "CTM + GAN"),
        *("MeanFlow", "MeanFlow, wide", "AYF"),
    ),
    "Consistency models": (
        *("CD", "CT", "iCT", "ECT", "SCT"),
        *("TCM stage 1", "TCM stage 1, longer", "TCM", "sCT", "sCD"),
    ),
}


def quality_plots(rows: Sequence[Row]) -> Iterator[Plot]:
    """One plot per world: means over seeds, smaller is better."""
    for world in WORLDS:
        measure = JUDGED[world]
        panels = []
        for heading, methods in PANELS.items():
            curves = {name: _curve(rows, world, name, measure) for name in methods}
            panels.append((heading, {name: curve for name, curve in curves.items() if curve}))
        shown = tuple((heading, curves) for heading, curves in panels if curves)
        if shown:
            title = f"{world.capitalize()}: {WORDS[measure]} over network calls, smaller is better"
            name = f"{world}-curves"
            yield Plot(name, title, "curves", WORDS[measure], shown, _colours(shown))


def _curve(rows: Sequence[Row], world: str, method: str, measure: str) -> dict[str, float]:
    """Means over seeds by number of calls; empty where nothing was measured."""
    own = [row for row in rows if (row.world, row.method) == (world, method)]
    if not own:
        return {}
    return {str(nfe): fmean(row.measures[str(nfe)][measure] for row in own) for nfe in NFES}


def _colours(panels: Sequence[tuple[str, dict[str, dict[str, float]]]]) -> dict[str, str]:
    """CTM is blue, the teacher grey, the others share the rest."""
    fixed = {"CTM": BLUES[0], "CTM alone": BLUES[1], TEACHER: GREYS[0]}
    others = cycle(OTHERS)
    present = [name for _, curves in panels for name in curves]
    order = [name for name in (TEACHER, *METHODS) if name in present]
    return {name: fixed.get(name) or next(others) for name in order}
