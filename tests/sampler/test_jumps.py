"""Jumps with chosen landings."""

import pytest
import torch

from ctm_fast.sampler import sample_exact, sample_jumps, two_step

from .worlds import World, flow, latents


def test_two_step_by_hand():
    x, unit = latents(3), latents(3, sigma=1.0)
    sigmas, landings = two_step(land=12, renoise=8)
    images = sample_jumps(
        World(), x, sigmas, disable=True, landings=landings, noise_sampler=lambda a, b: unit
    )
    lifted = flow(x, 80.0, landings[0]) + (sigmas[1] ** 2 - landings[0] ** 2) ** 0.5 * unit
    torch.testing.assert_close(images, flow(lifted, sigmas[1], 0.002), rtol=1e-12, atol=1e-15)


def test_two_step_without_noise_is_deterministic():
    sigmas, landings = two_step(land=10, renoise=10)
    x = latents(3)
    images = sample_jumps(World(), x, sigmas, disable=True, landings=landings)
    assert torch.equal(images, sample_exact(World(), x, sigmas, disable=True))


@pytest.mark.parametrize("model", [World("denoiser"), lambda x, sigma: x])
def test_a_model_that_only_denoises_is_told_what_to_use(model):
    with pytest.raises(ValueError, match="heun"):
        sample_jumps(model, latents(1), [80, 0.002], disable=True, landings=[0.002])


def test_a_consistency_model_cannot_land_elsewhere():
    with pytest.raises(ValueError, match="cm_multistep"):
        sample_exact(World("consistency"), latents(1), [80, 1, 0.002], disable=True)


def test_progress_bar_is_shown_on_request(capsys):
    sample_exact(World(), latents(1), [80, 1, 0.002], disable=False)
    assert "2/2" in capsys.readouterr().err
    sample_exact(World(), latents(1), [80, 1, 0.002], disable=True)
    assert capsys.readouterr().err == ""
