"""Verdicts from rows."""

from benchmarks.quality.claims import findings
from benchmarks.quality.methods import noise_name
from benchmarks.quality.records import Row
from benchmarks.quality.run import NOISE


def row(method: str, seed: int, values: list[float], world: str = "mixture") -> Row:
    measures = {
        str(nfe): {"sliced_wasserstein": value, "1nn": value}
        for nfe, value in zip((1, 2, 4, 8), values)
    }
    return Row(world, method, seed, 1.0, 1, 1, 1.0, 1.0, measures)


def noise(arm: str, trace: float) -> Row:
    return Row("mixture", NOISE + arm, 0, 1.0, 1, 0, 0.0, 0.0, {"": {"trace": trace}})


def found(rows: list[Row], begin: str) -> list[tuple[str, str, str]]:
    return [(f.world, f.verdict, f.figures) for f in findings(rows) if f.claim.startswith(begin)]


def test_improvement_with_calls() -> None:
    rows = [row("CTM", 0, [0.4, 0.3, 0.2, 0.1]), row("CTM", 1, [0.4, 0.4, 0.4, 0.5])]
    ((world, verdict, figures),) = found(rows, "CTM improves with")
    assert (world, verdict) == ("mixture", "seen with 1 of 2 seeds")
    assert "0.400, 0.350, 0.300, 0.300" in figures
    rows = [row("CD", 0, [0.3, 0.3, 0.3, 0.29])]
    assert found(rows, "CM (CD)")[0][1] == "seen with every seed"
    rows = [row("CD", 0, [0.3, 0.3, 0.3, 0.1])]
    assert found(rows, "CM (CD)")[0][1] == "not seen"


def test_pairs_of_methods_need_a_seed_in_common() -> None:
    rows = [row("SCT", 0, [0.1] * 4), row("ECT", 1, [0.2] * 4)]
    assert found(rows, "SCT improves") == []
    rows.append(row("ECT", 0, [0.2] * 4))
    ((_, verdict, figures),) = found(rows, "SCT improves")
    assert verdict == "seen with every seed"
    assert figures == "sliced Wasserstein distance 0.100 (SCT) against 0.200 (ECT)"
    assert found([row("SCT", 0, [0.3] * 4), row("ECT", 0, [0.2] * 4)], "SCT improves")[0][1] == (
        "not seen"
    )


def test_gradient_noise_has_to_fall_all_the_way() -> None:
    rows = [noise("ECT", 2.0), noise(noise_name(4), 1.0), noise(noise_name(16), 0.5)]
    assert found(rows, "SCT lowers") == []
    rows.append(noise(noise_name(64), 0.4))
    ((_, verdict, figures),) = found(rows, "SCT lowers")
    assert verdict == "seen with every seed"
    assert "0.50 with 4 images, 0.25 with 16 images, 0.20 with 64 images" in figures
    rows[-1] = noise(noise_name(64), 0.6)
    assert found(rows, "SCT lowers")[0][1] == "not seen"
