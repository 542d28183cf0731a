"""Improved consistency training: grid, probabilities, constants, no average, a short training."""

import math

import pytest
import torch

from ctm_fast.curricula import FixedScales
from ctm_fast.losses import ICT, Models, PseudoHuber, evaluate
from ctm_fast.rng import stream
from ctm_fast.sigmas import karras_sigmas
from tests.trainer.tiny import denoiser

from .oracle import draws, exact_student, train
from .tools import drawn


def test_grid_doubles() -> None:
    counts = [ICT().density(k / 8).num_scales for k in range(8)]
    assert counts == [11, 21, 41, 81, 161, 321, 641, 1281]


@pytest.mark.parametrize("progress", [0.0, 0.99])
def test_probabilities_are_those_of_the_log_normal(progress: float) -> None:
    objective = ICT()
    probabilities = objective.density(progress).probabilities()
    sigmas = karras_sigmas(len(probabilities) + 1)
    assert float(probabilities.sum()) == pytest.approx(1.0, abs=1e-12)
    below = [0.5 * math.erf((math.log(s) + 1.1) / (2.0 * math.sqrt(2))) for s in sigmas.tolist()]
    masses = torch.tensor(below, dtype=torch.float64).diff().neg()
    torch.testing.assert_close(probabilities, masses / masses.sum(), rtol=1e-8, atol=1e-15)
    # All but 0.3 % above 80 and 0.5 % below 0.002.
    assert float(masses.sum()) == pytest.approx(0.9917, abs=1e-4)


def test_levels_are_neighbours_of_the_grid() -> None:
    objective = ICT()
    t, r = objective.levels(20_000, stream(1), 0.3)
    sigmas = karras_sigmas(41)
    index = torch.searchsorted(-sigmas, -t)
    assert torch.equal(sigmas[index], t) and torch.equal(sigmas[index + 1], r)
    share = torch.bincount(index, minlength=40) / len(t)
    expected = objective.density(0.3).probabilities()
    torch.testing.assert_close(share.double(), expected, rtol=0.15, atol=2e-3)


def test_most_levels_are_low() -> None:
    # With +1.1 instead of -1.1, a known slip, the median would be 3.
    t, _ = ICT().levels(20_000, stream(1), 0.99)
    quantiles = t.quantile(torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64))
    expected = torch.tensor([0.012, 0.086, 0.333, 1.28, 8.9], dtype=torch.float64)
    torch.testing.assert_close(quantiles, expected, rtol=0.15, atol=0)


def test_constants_of_the_distance() -> None:
    distance = ICT().distance
    assert isinstance(distance, PseudoHuber)
    assert distance.factor * math.sqrt(3 * 32 * 32) == pytest.approx(0.0299, abs=5e-5)
    assert distance.factor * math.sqrt(3 * 64 * 64) == pytest.approx(0.0599, abs=5e-5)


def test_loss_by_hand() -> None:
    objective, student = ICT(scales=FixedScales(18)), exact_student()
    batch = drawn(objective, draws(64))
    loss = evaluate(objective, batch, Models(student))["consistency"]
    t, r, noise = (batch.draw[name] for name in ("t", "r", "noise"))
    at = [batch.images + level.reshape(-1, 1, 1, 1) * noise for level in (t, r)]
    with torch.no_grad():
        gap = (student(at[0], t) - student(at[1], r)).flatten()
    expected = ((gap**2 + 0.00054**2).sqrt() - 0.00054) / (t - r)
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-6, atol=1e-12)


def test_there_is_no_average() -> None:
    objective = ICT()
    assert objective.needs == set()
    assert getattr(objective, "target_decay", lambda progress: None)(0.5) is None
    student = denoiser(seed=1, destination=False)
    student.kind = "consistency"
    batch = drawn(objective, torch.randn(4, 1, 4, 4, generator=stream(1)))
    alone = evaluate(objective, batch, Models(student))["consistency"]
    for seed in (2, 3):
        beside = Models(student, denoiser(seed=seed, destination=False))
        assert torch.equal(evaluate(objective, batch, beside)["consistency"], alone)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"P_std": 0.0}, "P_std must be positive, got 0.0"), ({"sigma_min": 90.0}, "sigma_min=90.0")],
)
def test_bad_options_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ICT(**fields)


# In one dimension the published c would make the target a median, of a skewed distribution.
ONE_DIMENSION = ICT(PseudoHuber(0.3), sigma_max=10.0)


def test_short_training_finds_the_map() -> None:
    assert train(ONE_DIMENSION, 600, 512, 10.0) < 0.2


@pytest.mark.slow
def test_training_finds_the_map() -> None:
    assert train(ONE_DIMENSION, 3000, 512, 10.0) < 0.08
