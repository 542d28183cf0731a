"""ODE samplers in k-diffusion's form."""

import math

import pytest
import torch

from ctm_fast.sampler import sample_churn, sample_euler, sample_heun, sampling_sigmas

from .worlds import SD, World, flow, latents


def error(sampler, steps, **options):
    x = latents(2)
    sigmas = sampling_sigmas("heun", steps)[:-1]
    images = sampler(World("denoiser"), x, sigmas, disable=True, **options)
    return float((images - flow(x, 80.0, 0.002)).abs().max())


@pytest.mark.parametrize("sampler, order", [(sample_euler, 1), (sample_heun, 2)])
def test_order(sampler, order):
    measured = math.log2(error(sampler, 33) / error(sampler, 65))
    assert order - 0.1 < measured < order + 0.3


def test_a_trajectory_model_is_used_as_a_denoiser():
    x, sigmas = latents(2), sampling_sigmas("heun", 5)
    assert torch.equal(
        sample_heun(World("trajectory"), x, sigmas, disable=True),
        sample_heun(World("denoiser"), x, sigmas, disable=True),
    )


def test_the_last_step_to_zero_is_one_call():
    world = World("denoiser")
    sample_heun(world, latents(1), sampling_sigmas("heun", 18), disable=True)
    assert world.calls == 35


def test_churn_keeps_the_variance_of_the_noise_level():
    x = latents(512, size=8) * (1 + SD**2 / 80**2) ** 0.5
    sigmas = sampling_sigmas("churn", 60)[:-1]
    seen, generator = [], torch.Generator().manual_seed(5)
    options = dict(S_churn=20, S_min=0.05, S_max=50, S_noise=1.0)
    world = World("denoiser")
    images = sample_churn(world, x, sigmas, None, seen.append, True, generator=generator, **options)
    raised = 0
    for info, sigma in zip(seen, sigmas.tolist()):
        hat = sigma * (1 + 20 / 59) if 0.05 <= sigma <= 50 else sigma
        assert float(info["sigma_hat"]) == pytest.approx(hat, rel=1e-12)
        expected = (SD**2 + hat**2) ** 0.5
        # Heun's own error with 60 steps stays below 2 %.
        assert float(info["x"].std()) == pytest.approx(expected, rel=0.02)
        raised += hat > sigma
    assert 20 < raised < 59
    assert float(images.std()) == pytest.approx(SD, rel=0.02)


def test_churn_draws_only_where_it_adds_noise():
    asked = []

    def noise_sampler(sigma, sigma_to):
        asked.append(float(sigma))
        return torch.zeros(1, 2, 4, 4)

    sigmas = sampling_sigmas("churn", 10)
    options = dict(S_churn=10, S_min=0.1, S_max=10, noise_sampler=noise_sampler)
    sample_churn(World("denoiser"), latents(1), sigmas, disable=True, **options)
    assert asked == [sigma for sigma in sigmas.tolist() if 0.1 <= sigma <= 10]
    assert len(asked) >= 3


def test_churn_of_zero_is_heun():
    x, sigmas = latents(2), sampling_sigmas("churn", 6)
    images = sample_churn(World("denoiser"), x, sigmas, disable=True, S_churn=0)
    assert torch.equal(images, sample_heun(World("denoiser"), x, sigmas, disable=True))


def test_any_callable_will_do():
    x = latents(2)
    images = sample_heun(lambda x, sigma: torch.zeros_like(x), x, [80, 1, 0], disable=True)
    assert torch.equal(images, torch.zeros_like(x))


@pytest.mark.parametrize("sigmas", [[1.0], [1.0, 2.0], [2.0, float("nan")], [2.0, 0.0, 0.0]])
def test_bad_sigmas(sigmas):
    with pytest.raises(ValueError, match="sigmas"):
        sample_heun(World("denoiser"), latents(1), sigmas, disable=True)
