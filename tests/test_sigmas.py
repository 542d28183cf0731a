"""Noise-level grids and ranges."""

import math

import pytest
import torch

from ctm_fast.sigmas import SigmaRange, karras_sigma, karras_sigmas, partition
from tests.fixtures import assert_within, load, sources, tolerance

# CTM's published grids (CIFAR-10 and ImageNet-64), sigma_max first.
GRIDS = {
    18: "80, 57.585985, 40.785574, 28.374585, 19.352453, 12.910082, 8.400935, 5.315195, 3.256822, "
    "1.92334, 1.088171, 0.585348, 0.296442, 0.139516, 0.059947, 0.022935, 0.007528, 0.002",
    40: "80, 69.450946, 60.117395, 51.880318, 44.630202, 38.266462, 32.696889, 27.837114, "
    "23.610094, 19.945628, 16.779889, 14.054981, 11.718514, 9.723201, 8.02648, 6.590144, "
    "5.380004, 4.365562, 3.519699, 2.818392, 2.24044, 1.767203, 1.382368, 1.071722, 0.822941, "
    "0.625398, 0.469979, 0.348915, 0.25563, 0.184594, 0.131197, 0.091628, 0.062762, 0.042071, "
    "0.027525, 0.017522, 0.010812, 0.006437, 0.003677, 0.002",
}


@pytest.mark.parametrize("num_scales", GRIDS)
def test_published_grids(num_scales):
    golden = torch.tensor([float(v) for v in GRIDS[num_scales].split(",")], dtype=torch.float64)
    sigmas = karras_sigmas(num_scales)
    assert sigmas.dtype == torch.float64 and len(sigmas) == num_scales
    # The list is printed to six decimals.
    assert torch.allclose(sigmas, golden, rtol=1e-6, atol=5.1e-7)
    assert bool((sigmas.diff() < 0).all())


@pytest.mark.parametrize("source", sources("ctm_time_sampling"))
@pytest.mark.parametrize("num_scales", GRIDS)
def test_recorded_grids(source, num_scales):
    tensors, meta = load("ctm_time_sampling", source)
    sigmas = karras_sigmas(num_scales)
    for name in (f"t_grid_f64_N{num_scales}", f"t_grid_N{num_scales}"):
        assert_within(sigmas, tensors[name], tolerance(meta, name))
    with_zero = torch.cat([sigmas, sigmas.new_zeros(1)])
    name = f"sigmas_karras_N{num_scales}"
    assert_within(with_zero, tensors[name], tolerance(meta, name))


@pytest.mark.parametrize("source", sources("ctm_time_sampling"))
def test_recorded_real_positions(source):
    tensors, meta = load("ctm_time_sampling", source)
    sigma = karras_sigma(tensors["t_continuous_u"])
    assert_within(sigma, tensors["t_continuous"], tolerance(meta, "t_continuous"))


def test_ends_are_exact_for_any_range():
    for ends in [(0.002, 80.0), (0.01, 3.0), (0.003, 140.0)]:
        sigmas = karras_sigmas(7, *ends)
        assert (sigmas[-1].item(), sigmas[0].item()) == ends


def test_rho_one_is_a_straight_line():
    assert torch.allclose(karras_sigmas(5, 1.0, 9.0, rho=1.0), torch.arange(9.0, 0, -2).double())


def test_real_positions_agree_with_the_grid():
    position = torch.arange(18, dtype=torch.float64) / 17
    assert torch.allclose(karras_sigma(position), karras_sigmas(18), rtol=1e-13)
    assert karras_sigma(torch.tensor([0.5])).dtype == torch.float32


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((1,), "num_scales must be at least 2, got 1"),
        ((8, 0.0), "sigma_min=0.0"),
        ((8, 2.0, 1.0), "sigma_min=2.0"),
        ((8, 0.1, math.inf), "sigma_max=inf"),
        ((8, math.nan, 1.0), "sigma_min=nan"),
        ((8, 0.002, 80.0, 0.0), "rho must be positive, got 0.0"),
    ],
)
def test_inadmissible_grids(args, message):
    with pytest.raises(ValueError, match=message):
        karras_sigmas(*args)


def test_ranges_of_a_partition_hold_every_level_once():
    boundaries = [0.002, 0.5, 5.0, 80.0]
    ranges = partition(boundaries)
    assert [(r.low, r.high) for r in ranges] == [(0.002, 0.5), (0.5, 5.0), (5.0, 80.0)]
    sigma = torch.cat([karras_sigmas(40), torch.tensor(boundaries).double()])
    assert torch.stack([r.contains(sigma) for r in ranges]).sum(0).eq(1).all()
    assert not ranges[0].contains(torch.tensor([0.001, 0.5])).any()


def test_range_needs_low_below_high():
    with pytest.raises(ValueError, match=r"low=2.0, high=2.0"):
        SigmaRange(2.0, 2.0)
    with pytest.raises(ValueError, match=r"low=-1"):
        SigmaRange(-1, 2.0)
    with pytest.raises(ValueError, match=r"low=3\.0, high=1\.0"):
        partition([3.0, 1.0])
    with pytest.raises(ValueError, match="at least two boundaries"):
        partition([1.0])
