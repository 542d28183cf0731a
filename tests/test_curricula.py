"""Curricula: the published sequences, both conventions, the ends."""

import math

import pytest

from ctm_fast.curricula import SCALES, DoublingScales, FixedScales, SquareRootScales, scaled_decay


def test_square_root_sequence() -> None:
    progress = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 1.0)
    found = [SquareRootScales(2, 150).num_scales(p) for p in progress]
    assert found == [2, 16, 48, 76, 107, 131, 151]
    assert SquareRootScales(2, 200).num_scales(1.0) == 201


def test_doubling_sequence() -> None:
    # 400 000 steps: every 50 000 of them the number of intervals doubles.
    steps = 400_000
    scales = DoublingScales(10, 1280)
    expected = [11, 21, 41, 81, 161, 321, 641, 1281]
    assert [scales.num_scales(k * 50_000 / steps) for k in range(8)] == expected
    assert [scales.num_scales((k * 50_000 + 49_999) / steps) for k in range(8)] == expected
    assert scales.num_scales(1.0) == 1281
    assert scales.stages == 8


def test_doubling_stops_at_the_end() -> None:
    # 150 / 10 is no power of two: log2(15) + 1 = 4.9 stages, the last one shorter.
    scales = DoublingScales(10, 150)
    assert [scales.num_scales(k / 4.9 + 1e-9) for k in range(5)] == [11, 21, 41, 81, 151]


@pytest.mark.parametrize("name", SCALES.names())
def test_grids_become_finer_and_never_coarser(name: str) -> None:
    scales = SCALES[name]()
    counts = [scales.num_scales(k / 500) for k in range(501)]
    assert counts == sorted(counts)
    assert counts[0] >= 2


def test_both_conventions_of_the_decay() -> None:
    cifar, imagenet = SquareRootScales(2, 150), SquareRootScales(2, 200)
    # As in the published code: the first grid has one interval, so mu(0) is mu0 squared.
    assert imagenet.target_decay(0.0, 0.95, "intervals") == pytest.approx(0.9025)
    assert cifar.target_decay(0.0, 0.9, "intervals") == pytest.approx(0.81)
    assert cifar.target_decay(1.0, 0.9, "intervals") == pytest.approx(0.9 ** (2 / 150))
    # As in the paper.
    assert cifar.target_decay(0.0, 0.9, "levels") == pytest.approx(0.9)
    assert cifar.target_decay(1.0, 0.9, "levels") == pytest.approx(0.9 ** (2 / 151))
    assert DoublingScales().target_decay(0.0, 0.9, "intervals") == pytest.approx(0.9)


def test_decay_is_constant_on_a_fixed_grid_and_0_stays_0() -> None:
    assert FixedScales(40).target_decay(0.7, 0.95, "intervals") == 0.95
    assert scaled_decay(151, 2, 0.0) == 0.0
    assert math.isclose(scaled_decay(3, 2, 0.5), 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FixedScales(1), "at least 2 levels, got levels=1"),
        (lambda: SquareRootScales(1, 9), "need 2 <= start <= end, got start=1, end=9"),
        (lambda: DoublingScales(20, 10), "got start=20, end=10"),
        (lambda: scaled_decay(3, 2, 0.5, "scales"), "unknown count 'scales'"),
    ],
)
def test_bad_numbers_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
