"""The levels t >= u >= s of a CTM step, as grid indices."""

import json
import math

import pytest
import torch

from ctm_fast.registry import fields_from_json, fields_to_json
from ctm_fast.rng import stream
from ctm_fast.timesteps import TrajectoryLevels, TrajectoryPositions
from tests.fixtures import assert_within, load, sources, tolerance

CASES = [(18, 17), (40, 39), (40, 20)]
DRAWS = 100_000


def assert_distributed(counts, probabilities):
    """Chi-square at about 1 in 10,000; nothing where the probability is 0."""
    counts, expected = counts.double().flatten(), probabilities.flatten() * counts.sum()
    assert counts[expected == 0].sum() == 0
    seen = expected > 0
    dof = int(seen.sum()) - 1
    chi2 = ((counts - expected) ** 2 / expected)[seen].sum().item()
    # Wilson and Hilferty's normal approximation.
    limit = dof * (1 - 2 / (9 * max(dof, 1)) + 3.72 * math.sqrt(2 / (9 * max(dof, 1)))) ** 3
    assert chi2 <= limit


@pytest.mark.parametrize("source", sources("ctm_time_sampling"))
@pytest.mark.parametrize(("N", "M"), CASES)
def test_recorded_probabilities(source, N, M):
    tensors, meta = load("ctm_time_sampling", source)
    levels, suffix = TrajectoryLevels(M), f"_N{N}_M{M}"

    def check(name, actual):
        if source == "fixture" or name + suffix in tensors:
            assert_within(actual, tensors[name + suffix], tolerance(meta, name + suffix))

    check("p_num_heun", levels.count_probabilities(N))
    check("p_num_heun_gan", TrajectoryLevels(M, "uniform").count_probabilities(N))
    for letter, p in zip("tus", levels.marginal_probabilities(N), strict=True):
        check(f"p_{letter}_marginal", p)
    for n in (1, 3, M):
        joint = levels.joint_probabilities(N, n)
        check(f"p_ts_h{n}", joint)
        check(f"p_t_h{n}", joint.sum(1))


@pytest.mark.parametrize(
    ("N", "M", "mean", "s_min", "t_max"),
    [(18, 17, 11.67, 0.496, 0.294), (40, 39, 26.33, 0.337, 0.168), (40, 20, 13.67, 0.150, 0.039)],
)
def test_published_figures(N, M, mean, s_min, t_max):
    levels = TrajectoryLevels(M)
    t, u, s = levels.marginal_probabilities(N)
    assert levels.mean_count(N) == pytest.approx((2 * M + 1) / 3)
    assert levels.mean_count(N) == pytest.approx(mean, abs=0.005)
    assert s[-1].item() == pytest.approx(s_min, abs=5e-4)
    assert t[0].item() == pytest.approx(t_max, abs=5e-4)
    assert all(p.sum().item() == pytest.approx(1) for p in (t, u, s))


@pytest.mark.parametrize(("N", "M"), CASES)
@pytest.mark.parametrize("strategy", ["weighted", "uniform", "fixed"])
def test_drawn_step_counts(strategy, N, M):
    levels = TrajectoryLevels(M, strategy, per_sample=True)
    n = levels.sample(DRAWS, N, stream(0)).num_steps
    assert_distributed(torch.bincount(n - 1, minlength=M), levels.count_probabilities(N))
    assert n.double().mean().item() == pytest.approx(levels.mean_count(N), abs=0.15)


def test_power_of_the_weights():
    p = TrajectoryLevels(4, power=2.0).count_probabilities(9)
    assert torch.allclose(p, torch.tensor([1.0, 4.0, 9.0, 16.0]).double() / 30)


@pytest.mark.parametrize("destination", ["uniform", "smallest"])
@pytest.mark.parametrize(("N", "n"), [(18, 1), (18, 17), (40, 3), (40, 20)])
def test_drawn_pairs(destination, N, n):
    levels = TrajectoryLevels(n, "fixed", destination=destination)
    drawn = levels.sample(DRAWS, N, stream(1, N, n))
    assert drawn.num_steps == n and torch.equal(drawn.u_index, drawn.t_index + n)
    counts = torch.bincount(drawn.t_index * N + drawn.s_index, minlength=N * N)
    assert_distributed(counts, levels.joint_probabilities(N, n))


@pytest.mark.parametrize(("N", "M"), CASES)
def test_drawn_marginals_with_a_count_per_image(N, M):
    levels = TrajectoryLevels(M, per_sample=True)
    drawn = levels.sample(DRAWS, N, stream(2))
    indices = drawn.t_index, drawn.u_index, drawn.s_index
    assert torch.equal(drawn.u_index, drawn.t_index + drawn.num_steps)
    assert bool((drawn.u_index <= drawn.s_index).all() and (drawn.s_index <= N - 1).all())
    for index, p in zip(indices, levels.marginal_probabilities(N), strict=True):
        assert_distributed(torch.bincount(index, minlength=N), p)


def test_one_count_per_step_varies_over_steps():
    levels = TrajectoryLevels()
    n = [levels.sample(2, 18, stream(3, step)).num_steps for step in range(4000)]
    assert all(isinstance(k, int) for k in n)
    counts = torch.bincount(torch.tensor(n) - 1, minlength=17)
    assert_distributed(counts, levels.count_probabilities(18))


def test_default_is_the_whole_grid():
    assert [TrajectoryLevels().check(N) for N in (2, 18, 40)] == [1, 17, 39]


def test_draws_depend_on_the_generator_only():
    for per_sample in (False, True):
        levels = TrajectoryLevels(per_sample=per_sample)
        a, b, c = (levels.sample(64, 18, stream(4, k)) for k in (0, 0, 1))
        assert all(
            torch.equal(torch.as_tensor(p), torch.as_tensor(q)) for p, q in zip(a, b, strict=True)
        )
        assert not torch.equal(a.t_index, c.t_index)
        assert a.t_index.dtype == a.s_index.dtype == torch.int64


def test_json_round_trip():
    levels = TrajectoryLevels(20, "uniform", destination="smallest", per_sample=True)
    data = json.loads(json.dumps(fields_to_json(levels)))
    assert fields_from_json(TrajectoryLevels, data, "levels") == levels


def test_inadmissible_choices():
    with pytest.raises(ValueError, match=r"unknown step_count 'random'; choose from \['fixed'"):
        TrajectoryLevels(step_count="random")
    with pytest.raises(ValueError, match="unknown destination 'largest'"):
        TrajectoryLevels(destination="largest")
    with pytest.raises(ValueError, match="max_steps must be at least 1, got 0"):
        TrajectoryLevels(0)
    with pytest.raises(ValueError, match="num_scales=18, max_steps=18"):
        TrajectoryLevels(18).sample(4, 18, stream(0))
    with pytest.raises(ValueError, match="num_scales=1"):
        TrajectoryLevels().sample(4, 1, stream(0))
    with pytest.raises(ValueError, match=r"num_steps must be in \[1, 17\], got 0"):
        TrajectoryLevels().joint_probabilities(18, 0)


def test_real_positions_are_ordered_and_share_one_gap():
    t, u, s = TrajectoryPositions().sample(DRAWS, stream(5))
    assert bool((t >= 0).all() and (t <= u).all() and (u <= s).all() and (s <= 1).all())
    gap = (u - t)[0].item()
    assert torch.allclose(u - t, torch.full_like(t, gap)) and 0 <= gap < 17 / 18
    assert t.mean().item() == pytest.approx((1 - gap) / 2, abs=0.01)
    assert s.mean().item() == pytest.approx((u.mean().item() + 1) / 2, abs=0.01)
    gaps = [TrajectoryPositions(0.5).sample(1, stream(6, k)) for k in range(2000)]
    mean = sum((p.u - p.t).item() for p in gaps) / 2000
    assert mean == pytest.approx(0.25, abs=0.02)
    with pytest.raises(ValueError, match=r"max_gap must be in \(0, 1\], got 2"):
        TrajectoryPositions(2)
