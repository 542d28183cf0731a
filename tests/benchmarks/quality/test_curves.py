"""What the curves show."""

from benchmarks.quality.curves import PANELS, quality_plots
from benchmarks.quality.methods import METHODS
from benchmarks.quality.records import TEACHER, Row


def row(world: str, method: str, seed: int, value: float) -> Row:
    name = {"mixture": "sliced_wasserstein", "digits": "1nn"}[world]
    measures = {str(nfe): {name: value / nfe} for nfe in (1, 2, 4, 8)}
    return Row(world, method, seed, 100.0, 16, 10, 98.0, 2.0, measures)


def test_every_method_has_a_place() -> None:
    named = [name for methods in PANELS.values() for name in methods]
    assert sorted(named) == sorted([TEACHER, *METHODS])


def test_means_over_seeds() -> None:
    rows = [row("mixture", "CTM", 0, 0.1), row("mixture", "CTM", 1, 0.3), row("digits", "CD", 0, 1)]
    mixture, digits = quality_plots(rows)
    ((heading, curves),) = mixture.panels
    assert (mixture.name, heading) == ("mixture-curves", "Teacher and flow maps")
    assert curves == {"CTM": {"1": 0.2, "2": 0.1, "4": 0.05, "8": 0.025}}
    ((heading, curves),) = digits.panels
    assert heading == "Consistency models" and list(curves) == ["CD"]
    assert set(mixture.colours) == {"CTM"} and set(digits.colours) == {"CD"}
    assert list(quality_plots([])) == []
