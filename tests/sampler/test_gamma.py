"""gamma-sampling on data whose flow is known."""

import pytest
import torch

from ctm_fast.sampler import (
    sample_cm_multistep,
    sample_exact,
    sample_gamma,
    sample_onestep,
    sampling_sigmas,
)

from .worlds import SD, World, flow, latents


def run(sampler, x, sigmas, **options):
    seen = []
    generator = torch.Generator().manual_seed(5)
    noisy = {"generator": generator} if sampler in (sample_gamma, sample_cm_multistep) else {}
    images = sampler(World(), x, sigmas, None, seen.append, True, **noisy, **options)
    return images, [info["x"] for info in seen] + [images]


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 18])
def test_deterministic_jumps_follow_the_exact_flow(steps):
    x, sigmas = latents(4), sampling_sigmas("exact", steps)
    images, path = run(sample_exact, x, sigmas)
    for sigma, state in zip(sigmas.tolist(), path, strict=True):
        torch.testing.assert_close(state, flow(x, 80.0, sigma), rtol=1e-12, atol=0)
    assert torch.equal(run(sample_gamma, x, sigmas, gamma=0)[0], images)


@pytest.mark.parametrize("gamma", [0, 0.3, 0.7, 1])
def test_every_step_has_the_mean_and_variance_of_the_noise_level(gamma):
    # The first state gets the exact standard deviation sqrt(80^2 + sd^2).
    x = latents(512, size=8) * (1 + SD**2 / 80**2) ** 0.5
    sigmas = sampling_sigmas("gamma", 4)
    n = x.numel()
    for sigma, state in zip(sigmas.tolist(), run(sample_gamma, x, sigmas, gamma=gamma)[1]):
        std = (SD**2 + sigma**2) ** 0.5
        assert abs(state.mean()) < 5 * std / n**0.5
        assert abs(state.std() / std - 1) < 5 / (2 * n) ** 0.5


def test_gamma_one_is_the_consistency_sampler():
    x, sigmas = latents(4), sampling_sigmas("gamma", 5)
    assert torch.equal(
        run(sample_gamma, x, sigmas, gamma=1)[0], run(sample_cm_multistep, x, sigmas)[0]
    )
    near = run(sample_gamma, x, sigmas, gamma=1 - 1e-10)[0]
    torch.testing.assert_close(near, run(sample_cm_multistep, x, sigmas)[0], rtol=0, atol=1e-4)


def test_noise_grows_with_gamma():
    x, sigmas = latents(64), sampling_sigmas("gamma", 2)
    exact = flow(x, 80.0, 0.002)
    moved = [float((run(sample_gamma, x, sigmas, gamma=g)[0] - exact).std()) for g in (0.2, 0.5, 1)]
    assert 0 < moved[0] < moved[1] < moved[2]


def test_noise_is_drawn_between_steps_only_and_where_it_is_needed():
    asked = []

    def noise_sampler(sigma, sigma_to):
        asked.append((float(sigma), float(sigma_to)))
        return torch.zeros(2, 2, 4, 4)

    sigmas = sampling_sigmas("gamma", 3)
    pairs = list(zip(sigmas.tolist(), sigmas.tolist()[1:]))
    sample_gamma(World(), latents(2), sigmas, disable=True, noise_sampler=noise_sampler)
    assert asked == pairs[:-1]
    asked.clear()
    sample_gamma(World(), latents(2), sigmas, disable=True, gamma=0, noise_sampler=noise_sampler)
    sample_exact(World(), latents(2), sigmas, disable=True, noise_sampler=noise_sampler)
    sample_onestep(World(), latents(2), sigmas, disable=True, noise_sampler=noise_sampler)
    assert asked == []


def test_a_host_without_noise_sampler_gets_the_global_generator():
    x, sigmas = latents(2), sampling_sigmas("gamma", 2)

    def images(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return sample_gamma(World(), x, sigmas, disable=True)

    assert torch.equal(images(0), images(0)) and not torch.equal(images(0), images(1))


def test_a_final_zero_is_left_out():
    x, sigmas = latents(2), sampling_sigmas("exact", 3)
    padded = torch.cat([sigmas, sigmas.new_zeros(1)])
    assert torch.equal(run(sample_exact, x, padded)[0], run(sample_exact, x, sigmas)[0])


@pytest.mark.parametrize("gamma", [-1e-3, 1.001])
def test_gamma_outside_its_range(gamma):
    with pytest.raises(ValueError, match=str(gamma)):
        sample_gamma(World(), latents(1), [80, 1, 0.002], gamma=gamma)
