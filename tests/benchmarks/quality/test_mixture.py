"""The mixture in the plane: its numbers agree with each other."""

import pytest
import torch

from benchmarks.quality.mixture import SIZE, Mixture, Points

MIXTURE = Mixture()


def test_samples_have_the_moments() -> None:
    points = MIXTURE.samples(200_000, 5).flatten(1)
    assert points.std(0).square().mean().sqrt().item() == pytest.approx(MIXTURE.std, rel=5e-3)
    assert points.mean(0).abs().max() < 5e-3
    assert MIXTURE.std == pytest.approx(0.75, abs=5e-3)
    assert torch.equal(MIXTURE.samples(10, 5), MIXTURE.samples(10, 5))
    assert not torch.equal(MIXTURE.samples(10, 5), MIXTURE.samples(10, 6))


@pytest.mark.parametrize("sigma", [0.1, 1.0, 10.0])
def test_denoiser_is_the_mean_of_what_is_behind(sigma: float) -> None:
    images = MIXTURE.samples(200_000, 1)
    noise = torch.randn(
        images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    x = images + sigma * noise
    error = images - MIXTURE.denoised(x, sigma)
    # The error of a conditional mean is orthogonal to every function of x.
    for probe in (torch.ones_like(x), x / sigma, x.sin()):
        product = (error * probe).flatten(1).sum(1)
        assert product.mean().abs() < 4 * product.std() / len(x) ** 0.5


def test_trajectories_carry_the_distribution() -> None:
    start = MIXTURE.samples(2_000, 2) + 20 * torch.randn(
        2_000, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )
    coarse, fine = (MIXTURE.carried(start, 20.0, 0.01, steps) for steps in (100, 200))
    finest = MIXTURE.carried(start, 20.0, 0.01, 800)
    first, second = ((ends - finest).abs().mean().item() for ends in (coarse, fine))
    assert second < 2e-3
    assert first / second > 3  # order 2
    spread = finest.flatten(1).std(0).square().mean().sqrt().item()
    assert spread == pytest.approx(MIXTURE.std, rel=0.03)


def test_points_are_a_data_set() -> None:
    data = Points(MIXTURE, size=100)
    assert len(data) == 100 < SIZE
    assert data.shape == (2, 1, 1)
    assert data.sigma_data == MIXTURE.std
    assert data.images([1, 2]).shape == (2, 2, 1, 1)
    assert data.labels([1]) is None
    with pytest.raises(ValueError, match="allowed are 0 to 99"):
        data.images([100])
    with pytest.raises(NotImplementedError):
        data.pixels(torch.tensor([0]))
