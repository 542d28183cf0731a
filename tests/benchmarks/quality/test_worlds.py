"""What samples are judged by."""

import pytest
import torch

from benchmarks.quality.mixture import Mixture
from benchmarks.quality.worlds import HIGH, LOW, counted_cells, sliced_wasserstein, world_named
from ctm_fast.denoiser import Denoiser
from ctm_fast.precond import EDM, Preconditioning


class Exact(torch.nn.Module):
    """Network of the exact denoiser of the mixture."""

    img_channels, img_resolution, label_dim, augment_dim, has_destination = 2, 1, 0, 0, False

    def __init__(self) -> None:
        super().__init__()
        self.mixture = Mixture()
        self.last_layer = torch.nn.Conv2d(2, 2, 1)

    def forward(self, x, c_noise, c_noise_to=None, labels=None):
        inner, sigma = EDM(self.mixture.std), (4 * c_noise.double()).exp()
        c_skip, c_out = (c.reshape(-1, 1, 1, 1) for c in inner.coefficients(sigma))
        noisy = x.double() / inner.c_in(sigma).reshape(-1, 1, 1, 1)
        return ((self.mixture.denoised(noisy, sigma) - c_skip * noisy) / c_out).to(x.dtype)


def test_exact_model_is_judged_perfect() -> None:
    world = world_named("mixture", samples=4_000, mapped=500)
    precond = Preconditioning(EDM(Mixture().std))
    model = Denoiser(Exact(), precond, sigma_min=LOW, sigma_max=HIGH)
    found = world.measures(world.sampler(model, 64, "heun"), 0)
    assert found["map_error"] < 0.02
    assert found["sliced_wasserstein"] < 0.06
    assert world.real()["sliced_wasserstein"] < 0.08
    worse = world.measures(world.sampler(model, 4, "euler"), 0)
    assert worse["map_error"] > 5 * found["map_error"]


def test_points_are_not_clamped() -> None:
    world = world_named("mixture", samples=500, mapped=50)
    model = Denoiser(Exact(), Preconditioning(EDM(Mixture().std)), sigma_min=LOW, sigma_max=HIGH)
    points = world.sampler(model, 8, "heun")(500, seed=0)
    assert points.abs().max() > 1.1


def test_sliced_wasserstein_by_hand() -> None:
    points = Mixture().samples(1_000, 1)
    shift = torch.tensor([0.3, -0.4], dtype=torch.float64)[:, None, None]
    assert sliced_wasserstein(points, points) == 0
    # The mean square of a projected shift is half its square in the plane.
    assert sliced_wasserstein(points, points + shift) == pytest.approx(0.5 / 2**0.5, rel=0.1)
    with pytest.raises(ValueError, match="different sizes: 1000 and 10"):
        sliced_wasserstein(points, points[:10])


def test_cells_count_points() -> None:
    points = torch.tensor([[0.0, 0.0], [1.5, 1.5], [9.0, 0.0]])[:, :, None, None]
    picture = counted_cells(points, cells=8)
    assert picture.shape == (1, 1, 8, 8)
    assert (picture < 1).sum() == 2
    assert picture[0, 0, 0, 7] < 1  # up is up, right is right


def test_digits_have_the_measures_of_the_demo() -> None:
    real = world_named("digits").real()
    assert real["1nn"] == pytest.approx(0.5, abs=0.03)
    assert real["precision"] > 0.9


def test_unknown_world() -> None:
    with pytest.raises(ValueError, match="unknown world 'moons'; choose from"):
        world_named("moons")
