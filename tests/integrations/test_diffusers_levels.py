"""Levels of a diffusers schedule: grid indices, spacings, landings, and times read back."""

import math

import numpy as np
import pytest
import torch

from ctm_fast.integrations.diffusers_levels import (
    Grid,
    Schedule,
    check_choice,
    level_of,
    resolved_gamma,
    sigma_to_time,
    time_to_sigma,
    times_of,
)
from ctm_fast.sampler.step_tables import gamma_landings
from ctm_fast.sigmas import karras_sigmas


def test_published_times_of_the_two_step_schedule() -> None:
    levels = Grid(40).indexed([22, 0])
    assert levels == pytest.approx([80.0, 1.3824, 0.002], rel=1e-4)
    assert times_of(torch.tensor(levels[:2])).tolist() == pytest.approx([1095.507, 80.953], abs=0.1)


def test_times_and_levels_are_inverse() -> None:
    sigmas = karras_sigmas(40)
    times = times_of(sigmas)
    assert times.dtype == torch.float64
    torch.testing.assert_close(time_to_sigma(times), sigmas, rtol=1e-12, atol=0)
    assert times_of(sigmas.numpy()).tolist() == times.tolist()
    assert isinstance(times_of(np.float64(2.0)), float) and times_of(2.0) == sigma_to_time(2.0)
    assert math.isfinite(sigma_to_time(0.0))


@pytest.mark.parametrize("num", [1, 2, 3, 7, 39, 40])
def test_leading_steps_take_every_kth_level_of_the_grid(num: int) -> None:
    grid = karras_sigmas(40).tolist()
    levels = Grid(40).steps(num, "leading")
    assert levels == [*(grid[i * (40 // num)] for i in range(num)), 0.002]


def test_linspace_steps_are_karras_levels() -> None:
    assert Grid(40, rho=3.0).steps(5, "linspace") == karras_sigmas(6, rho=3.0).tolist()
    assert len(Grid(4).steps(50, "linspace")) == 51


def test_given_levels_end_at_sigma_min() -> None:
    grid = Grid(40)
    for sigmas in ([80, 1.0], [80, 1.0, 0], [80, 1.0, 0.002], [80, 1.0, 0.00199999963]):
        assert grid.given(sigmas) == [80.0, 1.0, 0.002]
    assert grid.given(torch.tensor([80.0, 1.0])) == grid.given(np.array([80.0, 1.0]))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda g: g.steps(0, "leading"), "num_inference_steps is 0"),
        (lambda g: g.steps(True, "leading"), "num_inference_steps is True"),
        (lambda g: g.steps(2.5, "linspace"), "num_inference_steps is 2.5"),
        (lambda g: g.steps(41, "leading"), "num_train_timesteps=40"),
        (lambda g: g.indexed([0, 22]), "descending order"),
        (lambda g: g.indexed([3, 3]), "descending order"),
        (lambda g: g.indexed([40, 0]), "below num_train_timesteps=40"),
        (lambda g: g.indexed([3, -1]), "not be negative"),
        (lambda g: g.indexed([]), "must hold integers"),
        (lambda g: g.indexed([1095.5, 80.9]), "must hold integers"),
        (lambda g: g.given([80.0, 81.0]), "strictly decreasing"),
        (lambda g: g.given([81.0, 1.0]), "outside"),
        (lambda g: g.given([1.0, 0.001, 0.0005]), "strictly decreasing|outside"),
        (lambda g: g.given([]), "at least two"),
        (lambda g: Grid(1), "num_scales"),
        (lambda g: Grid(4, sigma_min=0.0), "sigma_min"),
        (lambda g: Grid(4, rho=0.0), "rho"),
        (lambda g: Schedule((1.0, 0.1), 1.5), "gamma is 1.5"),
        (lambda g: resolved_gamma("consistency", 0.5), "gamma=1"),
        (lambda g: check_choice("kind", "x", ("a",)), "kind is 'x'"),
    ],
)
def test_refusals(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call(Grid(40))


def test_default_gamma_follows_the_kind() -> None:
    assert resolved_gamma("trajectory", None) == 0.0
    assert resolved_gamma(None, None) == resolved_gamma("consistency", None) == 1.0
    assert resolved_gamma("trajectory", 1) == 1.0 and resolved_gamma(None, 0.3) == 0.3


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_a_step_lands_where_the_table_says(gamma: float) -> None:
    levels = [80.0, 9.0, 1.0, 0.002]
    schedule = Schedule(levels, gamma)
    assert schedule.landings == gamma_landings(levels, gamma)
    for i, sigma in enumerate(levels[:-1]):
        for seen in (sigma, sigma * (1 + 1e-7), sigma * (1 - 1e-7)):
            landing, following = schedule.following(seen)
            assert (landing, following) == (schedule.landings[i], levels[i + 1])
            assert schedule.position(seen) == i
            assert schedule.snapped(seen) == sigma
        std = schedule.std(landing, following)
        assert std == pytest.approx(math.sqrt(following**2 - landing**2) if gamma else 0.0)


def test_a_step_off_the_schedule_goes_to_the_next_level_below() -> None:
    schedule = Schedule([80.0, 9.0, 1.0, 0.002])
    assert schedule.following(20.0) == (9.0, 9.0) and schedule.position(20.0) == 1
    assert schedule.following(0.5) == (0.002, 0.002) and schedule.snapped(0.5) == 0.5
    assert schedule.following(0.002) == (0.002, 0.002)


def test_own_times_are_known_by_their_place_and_others_are_read() -> None:
    schedule = Schedule([80.0, 9.0, 1.0, 0.002])
    own = times_of(torch.tensor(schedule.levels[:-1]))
    wrong = torch.full_like(own, math.nan)  # the place decides, not the value
    for i, time in enumerate(wrong):
        assert level_of("timestep", time, wrong, schedule.levels, schedule) == schedule.levels[i]
    one = wrong[1][None]
    assert level_of("timestep", one, wrong, schedule.levels, schedule) == 9.0
    for time in (own[1].clone(), own[1].float(), float(own[1]), own[1].numpy()):
        assert level_of("timestep", time, wrong, schedule.levels, schedule) == 9.0
    assert level_of("timestep", 0.0, own, schedule.levels, schedule) == 1.0


@pytest.mark.parametrize("time", [3, np.int64(3), torch.tensor(3), True])
def test_indices_are_refused(time) -> None:
    schedule = Schedule([80.0, 0.002])
    with pytest.raises(ValueError, match="is the integer"):
        level_of("timestep", time, torch.zeros(1), schedule.levels, schedule)


@pytest.mark.parametrize("time", [torch.zeros(2), "fast", None, torch.Generator()])
def test_what_is_no_time_is_refused(time) -> None:
    schedule = Schedule([80.0, 0.002])
    with pytest.raises(ValueError, match=r"s_timestep (has 2 entries|is)"):
        level_of("s_timestep", time, torch.zeros(1), schedule.levels, schedule)
