"""Noise levels and landings against published tables."""

import math

import pytest
import torch

from ctm_fast.sampler import sampling_sigmas, two_step
from ctm_fast.sampler.methods import METHODS, SAMPLERS
from ctm_fast.sampler.step_tables import (
    checked_sigmas,
    cm_landings,
    exact_landings,
    gamma_landings,
    jump_sigmas,
    renoise_stds,
)

# rho = 7, 80 to 0.002, as printed by the released CTM code.
JUMPS = {
    1: [80, 0.002],
    2: [80, 2.51522, 0.002],
    3: [80, 9.7232, 0.46998, 0.002],
    4: [80, 17.52783, 2.51522, 0.16975, 0.002],
    5: [80, 24.40834, 5.83895, 0.96542, 0.08509, 0.002],
    8: [80, 39.01668, 17.52783, 7.10051, 2.51522, 0.74338, 0.16975, 0.02605, 0.002],
}


def test_every_method_has_a_sampler():
    assert set(METHODS) == set(SAMPLERS)
    assert all(callable(SAMPLERS[name]) for name in SAMPLERS)


@pytest.mark.parametrize("steps", JUMPS)
@pytest.mark.parametrize("method", ["exact", "gamma", "cm_multistep"])
def test_jumps_take_one_more_level_and_end_at_sigma_min(method, steps):
    sigmas = sampling_sigmas(method, steps)
    assert sigmas.dtype == torch.float64
    assert sigmas[0] == 80 and sigmas[-1] == 0.002
    torch.testing.assert_close(
        sigmas, torch.tensor(JUMPS[steps], dtype=torch.float64), rtol=2e-4, atol=5e-6
    )


@pytest.mark.parametrize("steps", [2, 3, 4, 5, 6, 9])
@pytest.mark.parametrize("method", ["heun", "euler", "churn"])
def test_ode_levels_are_steps_karras_levels_then_zero(method, steps):
    sigmas = sampling_sigmas(method, steps)
    assert len(sigmas) == steps + 1 and sigmas[-1] == 0
    if steps - 1 in JUMPS:
        expected = torch.tensor(JUMPS[steps - 1], dtype=torch.float64)
        torch.testing.assert_close(sigmas[:-1], expected, rtol=2e-4, atol=5e-6)


def test_one_ode_step_goes_from_sigma_max_to_zero():
    assert sampling_sigmas("heun", 1).tolist() == [80, 0]


def test_euler_on_a_trajectory_model_ends_at_sigma_min():
    euler = sampling_sigmas("euler", 4, kind="trajectory")
    assert torch.equal(euler, sampling_sigmas("exact", 4))


def test_range_and_spacing_are_arguments():
    assert sampling_sigmas("exact", 2, 0.1, 10, rho=1).tolist() == pytest.approx([10, 5.05, 0.1])


@pytest.mark.parametrize(
    "method, steps, named",
    [("dpm", 2, "exact"), ("exact", 0, "0"), ("heun", 1.5, "1.5"), ("onestep", 2, "cm_multistep")],
)
def test_bad_method_or_steps(method, steps, named):
    with pytest.raises(ValueError, match=named):
        sampling_sigmas(method, steps)


@pytest.mark.parametrize("gamma", [0, 0.1, 0.5, 0.99, 1])
def test_landing_and_noise_add_up_to_the_next_level(gamma):
    sigmas = sampling_sigmas("gamma", 5).tolist()
    landings = gamma_landings(sigmas, gamma)
    stds = renoise_stds(sigmas, landings)
    for sigma, landing, std in zip(sigmas[1:], landings, stds, strict=True):
        assert landing**2 + std**2 == pytest.approx(sigma**2, rel=1e-14)
        assert landing == pytest.approx(math.sqrt(1 - gamma**2) * (sigma - 0.002) + 0.002)
    assert landings[-1] == 0.002 and stds[-1] == 0


def test_ends_of_gamma_are_the_two_other_samplers():
    sigmas = sampling_sigmas("gamma", 5).tolist()
    assert gamma_landings(sigmas, 0) == exact_landings(sigmas)
    assert renoise_stds(sigmas, exact_landings(sigmas)) == [0] * 5
    assert gamma_landings(sigmas, 1) == cm_landings(sigmas) == [0.002] * 5


@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.nan])
def test_gamma_outside_the_unit_interval(gamma):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        gamma_landings([80, 1, 0.002], gamma)


@pytest.mark.parametrize(
    "sigmas", [[80], [80, 80], [1, 2], [80, math.nan], [math.inf, 1], [1, -1], [[1.0], [0.5]]]
)
def test_levels_must_decrease(sigmas):
    with pytest.raises(ValueError, match="sigmas"):
        checked_sigmas(sigmas)


def test_jumps_leave_out_a_final_zero():
    assert jump_sigmas(torch.tensor([4.0, 2.0, 0.0])) == [4, 2]
    with pytest.raises(ValueError, match="final 0"):
        jump_sigmas([4.0, 0.0])


@pytest.mark.parametrize(
    "landings", [[0.5], [2.0, 0.1], [0.0, 0.1], [-1.0, 0.1], [0.5, 0.05], [0.5, 0.1, 0.1]]
)
def test_bad_landings(landings):
    with pytest.raises(ValueError, match="landing"):
        renoise_stds([10, 1, 0.1], landings)


def test_float32_rounding_of_a_level_is_not_a_landing_below_it():
    sigmas = torch.tensor([80.0, 0.7, 0.002]).tolist()
    assert renoise_stds(sigmas, [0.7, 0.002]) == [0, 0]
    tiny = gamma_landings([80.0, 0.7, 0.002], 0.001)
    assert renoise_stds([80.0, 0.7, 0.002], tiny)[0] == pytest.approx(0.7e-3, rel=1e-2)


def test_two_step_table():
    sigmas, landings = two_step(land=12, renoise=8, num_scales=18)
    grid = sampling_sigmas("exact", 17).tolist()
    assert sigmas == [80, grid[8], 0.002] and landings == [grid[12], 0.002]
    assert renoise_stds(sigmas, landings)[0] == pytest.approx(
        math.sqrt(grid[8] ** 2 - grid[12] ** 2)
    )


@pytest.mark.parametrize("land, renoise", [(8, 12), (18, 3), (5, 0), (17, 17)])
def test_two_step_indices(land, renoise):
    with pytest.raises(ValueError, match="renoise"):
        two_step(land, renoise, 18)
