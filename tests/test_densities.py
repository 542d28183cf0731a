"""Random training noise levels."""

import json
import math

import pytest
import torch

from ctm_fast.densities import DENSITIES, HalfLogNormal, KarrasUniform, LogNormal
from ctm_fast.rng import stream
from ctm_fast.sigmas import karras_sigma
from tests.fixtures import load, sources

DRAWS = 100_000


def log_moments(sigma):
    log = sigma.double().log()
    return log.mean().item(), log.std().item()


def test_log_normal_moments():
    mean, std = log_moments(LogNormal(-0.8, 1.6).sample(DRAWS, stream(0)))
    assert mean == pytest.approx(-0.8, abs=4 * 1.6 / math.sqrt(DRAWS))
    assert std == pytest.approx(1.6, abs=4 * 1.6 / math.sqrt(2 * DRAWS))


def test_karras_uniform_is_uniform_on_the_ramp():
    density = KarrasUniform(0.2, 0.6, sigma_min=0.01, sigma_max=10.0, rho=3.0)
    sigma = density.sample(DRAWS, stream(1), torch.float64)
    ends = 10.0 ** (1 / 3), 0.01 ** (1 / 3)
    position = (ends[0] - sigma ** (1 / 3)) / (ends[0] - ends[1])
    histogram = torch.histc(position, 20, 0.2, 0.6)
    assert histogram.sum() == DRAWS
    chi2 = ((histogram - DRAWS / 20) ** 2 / (DRAWS / 20)).sum()
    assert chi2 < 50  # 19 degrees of freedom: exceeded once in 8,000


def test_ctm_mixture():
    """First half log-normal, second half in [0.31828, 80]."""
    sigma = HalfLogNormal().sample(DRAWS, stream(2))
    first, second = sigma[: DRAWS // 2], sigma[DRAWS // 2 :]
    mean, std = log_moments(first)
    assert mean == pytest.approx(-1.2, abs=0.022) and std == pytest.approx(1.2, abs=0.016)
    assert 0.31828 <= second.min() < 0.3184 and 79.9 < second.max() <= 80
    assert karras_sigma(torch.tensor(0.7).double()).item() == pytest.approx(0.31828, abs=1e-5)


@pytest.mark.parametrize("source", sources("ctm_time_sampling"))
@pytest.mark.parametrize("half", ["first", "second"])
def test_recorded_distribution(source, half):
    tensors, _ = load("ctm_time_sampling", source)
    edges, cdf = tensors["dsm_edges"], tensors[f"cdf_dsm_{half}_half"]
    sigma = HalfLogNormal().sample(2 * DRAWS, stream(3), torch.float64)
    rows = sigma[:DRAWS] if half == "first" else sigma[DRAWS:]
    below = torch.searchsorted(rows.sort().values, edges, right=True) / DRAWS
    # Kolmogorov-Smirnov: 1.95 / sqrt(n) is exceeded once in 1,000.
    assert (below - cdf).abs().max() < 1.95 / math.sqrt(DRAWS)
    p = cdf.diff()
    counts = below.diff() * DRAWS
    bins = p * DRAWS > 5
    chi2 = ((counts - p * DRAWS) ** 2 / (p * DRAWS))[bins].sum()
    dof = int(bins.sum())
    assert chi2 < dof + 4 * math.sqrt(2 * dof)


@pytest.mark.parametrize("source", sources("ctm_time_sampling"))
def test_recorded_split_of_the_batch(source):
    tensors, _ = load("ctm_time_sampling", source)
    # A density whose halves can be told apart: sigma < 1e-4 only from the log-normal.
    density = HalfLogNormal(P_mean=-20.0, P_std=0.1)
    for batch, log_normal, uniform in tensors["dsm_split_of_batch"].tolist():
        small = density.sample(batch, stream(4)) < 1e-4
        assert small.tolist() == [True] * log_normal + [False] * uniform


def test_interleaved_halves_are_the_same_draws_in_another_order():
    for batch in (1, 2, 5, 8):
        plain = HalfLogNormal().sample(batch, stream(5))
        mixed = HalfLogNormal(interleave=True).sample(batch, stream(5))
        assert torch.equal(mixed[1::2], plain[: batch // 2])
        assert torch.equal(mixed[0::2], plain[batch // 2 :])


@pytest.mark.parametrize("name", DENSITIES.names())
def test_every_density(name):
    density = DENSITIES[name]()
    single = density.sample(7, stream(6))
    double = density.sample(7, stream(6), torch.float64)
    assert single.shape == (7,) and single.dtype == torch.float32
    assert torch.equal(single, double.float())
    assert bool((double > 0).all())
    assert torch.equal(density.sample(7, stream(6)), single)
    assert not torch.equal(density.sample(7, stream(7)), single)
    assert density.sample(0, stream(6)).shape == (0,)
    assert DENSITIES.from_json(json.loads(json.dumps(DENSITIES.to_json(density)))) == density


def test_inadmissible_parameters():
    for density in (LogNormal, HalfLogNormal):
        with pytest.raises(ValueError, match="P_std must be positive, got 0"):
            density(P_std=0)
    for density in (KarrasUniform, HalfLogNormal):
        with pytest.raises(ValueError, match=r"low=0\.0, high=1\.5"):
            density(high=1.5)
        with pytest.raises(ValueError, match="sigma_min=100"):
            density(sigma_min=100)
