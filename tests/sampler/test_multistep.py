"""The samplers of consistency models."""

import pytest
import torch

from ctm_fast.sampler import sample_cm_multistep, sample_onestep, sampling_sigmas

from .worlds import World, flow, latents, small_model


def test_one_step_is_one_call_from_the_first_level_to_the_last():
    world, x = World("consistency"), latents(3)
    images = sample_onestep(world, x, sampling_sigmas("exact", 6), disable=True)
    assert world.calls == 1
    torch.testing.assert_close(images, flow(x, 80.0, 0.002), rtol=1e-12, atol=0)


def test_multistep_by_hand():
    x, unit = latents(3), latents(3, sigma=1.0)
    sigmas = sampling_sigmas("cm_multistep", 2)
    images = sample_cm_multistep(
        World("consistency"), x, sigmas, disable=True, noise_sampler=lambda sigma, sigma_to: unit
    )
    middle = float(sigmas[1])
    noisy = flow(x, 80.0, 0.002) + (middle**2 - 0.002**2) ** 0.5 * unit
    torch.testing.assert_close(images, flow(noisy, middle, 0.002), rtol=1e-12, atol=1e-15)


def test_noise_may_be_added_to_an_image_that_counts_as_clean():
    """ECT's x + mid z, where CM adds sqrt(mid^2 - sigma_min^2) z."""
    x, unit, sigmas = latents(3), latents(3, sigma=1.0), [80.0, 0.004, 0.002]
    for renoise, std in [("zero", 0.004), ("sigma_min", (0.004**2 - 0.002**2) ** 0.5)]:
        images = sample_cm_multistep(
            *(World("consistency"), x, sigmas, None, None, True),
            renoise=renoise,
            noise_sampler=lambda sigma, sigma_to: unit,
        )
        noisy = flow(x, 80.0, 0.002) + std * unit
        torch.testing.assert_close(images, flow(noisy, 0.004, 0.002), rtol=1e-12, atol=1e-15)
    with pytest.raises(ValueError, match="renoise is 'half'"):
        sample_cm_multistep(World("consistency"), x, sigmas, renoise="half")


def test_a_consistency_network_is_called_without_destination():
    model = small_model("consistency").eval()
    x = latents(3).float()
    images = sample_onestep(model, x, [80.0, 0.002], disable=True)
    torch.testing.assert_close(images, model(x, torch.full((3,), 80.0)), rtol=0, atol=0)


def test_a_consistency_model_lands_on_its_own_sigma_min_only():
    with pytest.raises(ValueError, match=r"0\.002"):
        sample_cm_multistep(World("consistency"), latents(1), [80.0, 1.0, 0.1], disable=True)
    float32 = torch.tensor([80.0, 0.00199999963])
    sample_onestep(World("consistency"), latents(1), float32, disable=True)
