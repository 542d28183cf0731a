"""The wrapped model: the known part moves as the flow of a point mass, and ends where it must."""

import math

import pytest
import torch

from ctm_fast.editing import Colourisation, Inpainting, Known, SuperResolution
from ctm_fast.editing.known import point_mass_share

from .worlds import Correlated, left_half

X = 2.0 * torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
OPERATORS = [Inpainting(left_half()), Colourisation(), SuperResolution(2)]


def known(operator, **options):
    world = Correlated(channels=3)
    measured = operator.measure(world.images(5))
    return world, measured, Known(world, operator, measured, **options)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: type(o).__name__)
def test_denoised_images_have_the_measured_part(operator) -> None:
    world, measured, model = known(operator)
    denoised = model(X, 2.0)
    torch.testing.assert_close(operator.measure(denoised), measured, rtol=0, atol=1e-12)
    plain = world(X, X.new_full((5,), 2.0))
    torch.testing.assert_close(denoised, operator.replaced(plain, measured))


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: type(o).__name__)
def test_jumps_to_the_end_have_the_measured_part(operator) -> None:
    _, measured, model = known(operator)
    landed = operator.measure(model.jump(X, 2.0, 0.002))
    torch.testing.assert_close(landed, measured, rtol=0, atol=1e-12)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: type(o).__name__)
def test_the_known_part_follows_the_flow_of_a_point(operator) -> None:
    """Two jumps are one, and the noise of the known part shrinks as the level does."""
    _, measured, model = known(operator)
    through = operator.measure(model.jump(model.jump(X, 2.0, 0.7), 0.7, 0.1))
    torch.testing.assert_close(through, operator.measure(model.jump(X, 2.0, 0.1)))
    share = (through - measured) / (operator.measure(X) - measured)
    expected = math.sqrt((0.1**2 - 0.002**2) / (2.0**2 - 0.002**2))
    seen = share[operator.measure(torch.ones_like(X)) != 0]
    torch.testing.assert_close(seen, torch.full_like(seen, expected))


def test_the_unknown_pixels_are_the_models() -> None:
    world, _, model = known(OPERATORS[0])
    levels = [X.new_full((5,), level) for level in (2.0, 0.5)]
    assert torch.equal(model.jump(X, 2.0, 0.5)[..., 2:], world.jump(X, *levels)[..., 2:])


def test_shares() -> None:
    assert point_mass_share(3.0, 0.002, 0.002) == 0
    assert point_mass_share(3.0, 0.00200000001, 0.002) == 0
    assert point_mass_share(3.0, 3.0, 0.002) == 1
    assert point_mass_share(0.002, 0.002, 0.002) == 0


def test_another_last_level() -> None:
    _, measured, model = known(OPERATORS[0], low=0.5)
    landed = model.jump(X, 2.0, 0.5)
    assert torch.equal(landed[..., :2], measured[..., :2])


def test_repeats_climb_back_with_the_missing_noise() -> None:
    asked = []

    def climb(sigma: float, repeat: int) -> torch.Tensor:
        asked.append((sigma, repeat))
        return torch.ones_like(X)

    world, _, model = known(OPERATORS[0], repeats=3, climb=climb)
    found = model.jump(X, 2.0, 0.5)
    assert asked == [(2.0, 1), (2.0, 2)] and world.calls == 3 == model.network_calls
    _, _, once = known(OPERATORS[0])
    by_hand = X
    for repeat in range(3):
        by_hand = once.jump(by_hand, 2.0, 0.5)
        if repeat < 2:
            by_hand = by_hand + math.sqrt(2.0**2 - 0.5**2)
    torch.testing.assert_close(found, by_hand, rtol=0, atol=1e-12)
