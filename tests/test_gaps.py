"""ECT's mapping r(t, stage): the published table, the counter, the cap."""

import itertools

import pytest
import torch

from ctm_fast.gaps import GAPS, ConstantGap, SigmoidGap

LEVELS = torch.tensor([0.01, 0.1, 0.5, 1, 2, 5, 20, 80], dtype=torch.float64)
# r/t for q = 2, k = 8, b = 1; one row per stage.
TABLE = (
    (0, 0, 0, 0, 0.023, 0.473, 0.500, 0.500),
    (0, 0, 0, 0.212, 0.512, 0.737, 0.750, 0.750),
    (0.378, 0.400, 0.498, 0.606, 0.756, 0.868, 0.875, 0.875),
    (0.689, 0.700, 0.749, 0.803, 0.878, 0.934, 0.938, 0.938),
    (0.844, 0.850, 0.874, 0.902, 0.939, 0.967, 0.969, 0.969),
    (0.922, 0.925, 0.937, 0.951, 0.970, 0.984, 0.984, 0.984),
    (0.961, 0.963, 0.969, 0.975, 0.985, 0.992, 0.992, 0.992),
    (0.981, 0.981, 0.984, 0.988, 0.992, 0.996, 0.996, 0.996),
)


@pytest.mark.parametrize("stage", range(8))
def test_published_table(stage: int) -> None:
    ratio = SigmoidGap().r(LEVELS, stage) / LEVELS
    expected = torch.tensor(TABLE[stage], dtype=torch.float64)
    assert (ratio - expected).abs().max() < 1e-3


def test_pure_denoising_ends_where_published() -> None:
    gap = SigmoidGap()
    for stage, edge in ((0, 1.9459101), (1, 0.5108256)):  # ln 7, ln(5/3)
        near = torch.tensor([edge - 1e-5, edge + 1e-5], dtype=torch.float64)
        r = gap.r(near, stage)
        assert r[0] == 0 < r[1]


def test_larger_q_visits_fewer_rows() -> None:
    for stage, row in enumerate((1, 3, 5, 7)):
        coarse = SigmoidGap(q=4, stages=4).r(LEVELS, stage)
        assert torch.equal(coarse, SigmoidGap().r(LEVELS, row))


def test_all_published_schedules_end_at_the_same_gap() -> None:
    for gap in (SigmoidGap(), SigmoidGap(q=4, stages=4), SigmoidGap(q=256, stages=1)):
        assert gap.factor(gap.stage(1.0)) == 1 / 256


def test_constant_gap_is_one_ratio() -> None:
    r = ConstantGap().r(LEVELS, 2)
    torch.testing.assert_close(r, 0.875 * LEVELS, rtol=1e-15, atol=0)


@pytest.mark.parametrize("steps", [8, 10, 80, 1000, 200_000])
def test_stages_begin_at_their_step(steps: int) -> None:
    for stages in (1, 4, 8):
        gap = SigmoidGap(stages=stages)
        for step in {0, 1, steps // 2, steps - 1, *(a * steps // stages for a in range(stages))}:
            assert gap.stage(step / steps) == step * stages // steps


def test_counter_stays_in_range() -> None:
    gap = SigmoidGap()
    assert gap.stage(1.0) == 7
    for progress in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="progress must be in"):
            gap.stage(progress)


def test_smooth_schedule_has_the_same_ends_and_small_steps() -> None:
    smooth, steps = SigmoidGap(smooth=True), SigmoidGap()
    assert smooth.stage(0.0) == steps.stage(0.0)
    assert smooth.stage(1.0) == steps.stage(1.0)
    factors = [smooth.factor(smooth.stage(i / 1000)) for i in range(1001)]
    ratios = [b / a for a, b in itertools.pairwise(factors)]
    assert 0.99 < min(ratios) <= max(ratios) < 1


def test_ratio_limit_and_floor() -> None:
    capped = SigmoidGap(ratio_limit=0.999, floor=1e-6)
    t = torch.tensor([1.0, 5.0, 80.0], dtype=torch.float64)
    expected = t * 0.001 * (1 + 8 * torch.sigmoid(-t))
    torch.testing.assert_close(capped.delta(t, 30), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(capped.delta(t, 2), SigmoidGap().delta(t, 2), rtol=0, atol=0)
    assert (capped.r(t, 0) >= 1e-6).all()
    assert capped.r(t, 0)[0] == 1e-6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"q": 1.0}, "q must be above 1, got 1.0"),
        ({"stages": 0}, "stages must be at least 1, got 0"),
        ({"ratio_limit": 1.5}, "ratio_limit must be in"),
        ({"floor": -1.0}, "floor must not be negative"),
        ({"k": -1.0}, "k=-1.0"),
        ({"b": 0.0}, "b=0.0"),
    ],
)
def test_bad_options_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SigmoidGap(**fields)


@pytest.mark.parametrize("name", GAPS.names())
def test_json_round_trip(name: str) -> None:
    gap = GAPS[name](q=4.0, stages=4, smooth=True)
    assert GAPS.from_json(GAPS.to_json(gap)) == gap
