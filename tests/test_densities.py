"""Random training noise levels."""

import json
import math

import pytest
import torch

from ctm_fast.densities import (
    DENSITIES,
    DiscretisedLogNormal,
    HalfLogNormal,
    KarrasUniform,
    LogitNormal,
    LogNormal,
    LogStudentT,
    TruncatedLogNormal,
)
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


SHARES = torch.tensor([0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99], dtype=torch.float64)


def test_log_student_t_has_the_published_quantiles():
    """Mass next to low, and a tail that reaches high."""
    found = LogStudentT().quantile(SHARES)
    published = torch.tensor([1.001, 1.013, 1.043, 1.22, 2.52, 10.4, 24.7, 61.3])
    torch.testing.assert_close(found, published.double(), rtol=5e-3, atol=0)
    # By bisection on the incomplete beta function in 40 digits.
    exact = [1.001189076, 1.012674716, 1.042977647, 1.221149954]
    exact += [2.523549362, 10.44437295, 24.64973273, 61.30767035]
    torch.testing.assert_close(found, torch.tensor(exact, dtype=torch.float64), rtol=1e-9, atol=0)
    sigma = LogStudentT().sample(DRAWS, stream(8), torch.float64)
    assert bool(((sigma >= 1) & (sigma <= 80)).all())
    below = (sigma[:, None] <= found).double().mean(0)
    assert (below - SHARES).abs().max() < 4 * 0.5 / math.sqrt(DRAWS)


def test_log_student_t_tends_to_the_log_normal():
    """By the Cornish-Fisher expansion quantiles differ by (z^3 + z) / (4 nu)."""
    student = LogStudentT(mu=-0.4, scale=0.7, nu=1e4, low=1e-3, high=1e3).quantile(SHARES)
    normal = TruncatedLogNormal(-0.4, 0.7, 1e-3, 1e3).quantile(SHARES)
    z = (normal.log() + 0.4) / 0.7
    expected = (normal.log() + 0.7 * (z**3 + z) / 4e4).exp()
    assert (student / normal - 1).abs().max() > 1e-5
    torch.testing.assert_close(student, expected, rtol=1e-6, atol=0)


def test_truncated_log_normal_is_the_log_normal_between_its_ends():
    # P(ln sigma <= q), with the two tails cut off: by erf, directly.
    def below(sigma):
        return 0.5 * (1 + math.erf((math.log(sigma) + 1.1) / 2 / math.sqrt(2)))

    density = TruncatedLogNormal()
    ends = below(0.002), below(80.0)
    for p, sigma in zip(SHARES.tolist(), density.quantile(SHARES).tolist(), strict=True):
        assert (below(sigma) - ends[0]) / (ends[1] - ends[0]) == pytest.approx(p, abs=1e-12)
    sides = density.quantile(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    assert sides == pytest.approx([0.002, 80.0], rel=1e-12)
    sigma = density.sample(DRAWS, stream(9), torch.float64)
    assert bool(((sigma >= 0.002) & (sigma <= 80)).all())
    plain = LogNormal(-1.1, 2.0).sample(DRAWS, stream(9))
    assert (plain > 80).double().mean() == pytest.approx(0.003, abs=0.001)


@pytest.mark.parametrize(("low", "high"), [(1e8, 1e9), (1e-9, 1e-8)])
def test_truncated_log_normal_keeps_its_digits_in_the_tails(low, high):
    density = TruncatedLogNormal(0.0, 1.0, low, high)
    p = torch.linspace(0, 1, 201, dtype=torch.float64)
    sigma = density.quantile(p)
    assert bool((sigma.diff() > 0).all())
    # Far out the density of ln sigma falls like exp(-z^2/2): half of it is within 0.7/z of the end.
    near = math.log(low) if low > 1 else math.log(high)
    assert abs(sigma[100].log() - near) == pytest.approx(math.log(2) / abs(near), rel=0.01)


def test_discretised_log_normal_has_the_mass_of_each_interval():
    density = DiscretisedLogNormal(num_scales=11)
    p, grid = density.probabilities(), density.grid()
    assert p.shape == (10,) and p.sum().item() == pytest.approx(1, abs=1e-14)
    cdf = 0.5 * torch.erf((grid.log() + 1.1) / (2 * math.sqrt(2)))
    torch.testing.assert_close(p, (cdf[:-1] - cdf[1:]) / (cdf[0] - cdf[-1]), rtol=1e-9, atol=0)
    t, r = density.pairs(DRAWS, stream(10))
    assert torch.equal(t, density.sample(DRAWS, stream(10), torch.float64))
    counts = torch.stack([(t == level).sum() for level in grid[:-1]]).double()
    assert counts.sum() == DRAWS
    assert ((counts - DRAWS * p) ** 2 / (DRAWS * p)).sum() < 36  # exceeded once in 25,000
    index = torch.searchsorted(-grid, -t)
    assert torch.equal(grid[index + 1], r)
    # Many levels: quantiles are those of the continuous distribution.
    fine = DiscretisedLogNormal(num_scales=1281).quantile(SHARES)
    torch.testing.assert_close(fine, TruncatedLogNormal().quantile(SHARES), rtol=0.02, atol=0)


def test_discretised_log_normal_never_draws_what_has_no_mass():
    density = DiscretisedLogNormal(num_scales=41, P_mean=-1.0, P_std=0.01)
    ends = torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64)
    assert (density.probabilities() == 0).sum() > 30
    assert bool((density.probabilities()[density.intervals(ends)] > 0).all())


def test_logit_normal_times():
    density = LogitNormal(-0.4, 1.0)
    tau = density.times(DRAWS, stream(11), torch.float64)
    sigma = density.sample(DRAWS, stream(11), torch.float64)
    torch.testing.assert_close(tau / (1 - tau), sigma)
    mean, std = tau.logit().mean().item(), tau.logit().std().item()
    assert mean == pytest.approx(-0.4, abs=0.013) and std == pytest.approx(1, abs=0.009)


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
    log_normals = (LogNormal, HalfLogNormal, TruncatedLogNormal, DiscretisedLogNormal, LogitNormal)
    for density in log_normals:
        with pytest.raises(ValueError, match="P_std must be positive, got 0"):
            density(P_std=0)
    for density in (KarrasUniform, HalfLogNormal):
        with pytest.raises(ValueError, match=r"low=0\.0, high=1\.5"):
            density(high=1.5)
        with pytest.raises(ValueError, match="sigma_min=100"):
            density(sigma_min=100)
    for density in (TruncatedLogNormal, LogStudentT):
        with pytest.raises(ValueError, match="sigma_min=100"):
            density(low=100)
    with pytest.raises(ValueError, match="no noise level falls between"):
        TruncatedLogNormal(P_std=0.01, low=70)
    with pytest.raises(ValueError, match="no noise level falls on the grid"):
        DiscretisedLogNormal(P_mean=30.0, P_std=0.1)
    with pytest.raises(ValueError, match="num_scales must be at least 2"):
        DiscretisedLogNormal(num_scales=1)
    with pytest.raises(ValueError, match=r"scale=0\.2, nu=0"):
        LogStudentT(nu=0)
