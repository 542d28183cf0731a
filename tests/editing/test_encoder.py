"""Encoded images: the exact flow upwards, and the way back."""

import pytest
import torch

from ctm_fast.editing import Encoder
from ctm_fast.editing.encoder import one_state

from ..sampler.worlds import unet_model
from .worlds import Correlated, sampler


@pytest.mark.parametrize("kind", ["trajectory", "denoiser"])
def test_it_follows_the_exact_flow(kind) -> None:
    world = Correlated()
    images = world.images(8)
    found = Encoder(sampler(kind, clip=False), steps=40)(images)
    along = images.flatten(1) @ world.axes
    gains = ((world.variances + 80.0**2) / (world.variances + 0.002**2)).sqrt()
    exact = (along * gains @ world.axes.T).reshape(images.shape)
    assert (found - exact).norm() / exact.norm() < 0.02
    assert abs(found.std() / 80 - 1) < 0.3


def test_the_sampler_makes_the_images_again() -> None:
    images = Correlated().images(4)
    decoder = sampler(clip=False)
    errors = []
    for steps in (9, 18, 36):
        again = decoder(noise=Encoder(sampler("denoiser"), steps)(images.clamp(-1, 1)))
        errors.append(float((again - images).norm() / images.norm()))
    assert errors[0] > errors[1] > errors[2] and errors[1] < 0.1
    unit = sampler(latents="unit", clip=False)
    noise = Encoder(unit)(images)
    torch.testing.assert_close(unit(noise=noise), decoder(noise=Encoder(decoder)(images)))


def test_it_counts_its_calls_and_splits_batches() -> None:
    encoder = Encoder(sampler(batch_size=2), steps=3)
    images = Correlated().images(4).clamp(-1, 1)
    found = encoder(images)
    assert encoder.nfe == 6 and encoder.sampler.model.calls == 12
    torch.testing.assert_close(found, Encoder(sampler(), steps=3)(images), rtol=0, atol=1e-10)


def test_frozen_networks_encode() -> None:
    from ctm_fast.sampler import Sampler

    images = torch.zeros(1, 2, 4, 4)
    frozen, plain = (
        Encoder(Sampler(unet_model("denoiser"), freeze=freeze), 3)(images)
        for freeze in (True, False)
    )
    torch.testing.assert_close(frozen, plain, rtol=1e-3, atol=1e-3)


def test_bad_encoders_are_refused() -> None:
    with pytest.raises(ValueError, match="a consistency model does not denoise"):
        Encoder(sampler("consistency"))
    with pytest.raises(ValueError, match="steps is 0; it must be an integer"):
        Encoder(sampler(), 0)
    with pytest.raises(ValueError, match=r"the image is \(1, 4, 4\); need"):
        Encoder(sampler())(torch.zeros(1, 4, 4))


def test_states_of_one_image() -> None:
    state = torch.zeros(1, 4, 4)
    assert one_state(state, (1, 4, 4), "first").shape == (1, 1, 4, 4)
    assert one_state(state[None], (1, 4, 4), "first").shape == (1, 1, 4, 4)
    with pytest.raises(ValueError, match=r"first is \(2, 1, 4, 4\); need the noise of one image"):
        one_state(torch.zeros(2, 1, 4, 4), (1, 4, 4), "first")
    with pytest.raises(ValueError, match="first is a float; need an integer seed or noise"):
        one_state(1.5, (1, 4, 4), "first")
