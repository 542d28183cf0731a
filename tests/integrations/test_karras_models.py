"""Networks of openai/consistency_models and sony/ctm as the samplers call them."""

import pytest
import torch

from ctm_fast.integrations.karras import karras_sample
from ctm_fast.integrations.karras_models import KarrasDPM, KarrasModel, is_two_time
from ctm_fast.solvers import solve

from ..analytic import Gaussian
from ..sampler.worlds import small_model
from .tiny_hosts import TinyADM, TinyOpenAIDiffusion, TinySonyDiffusion, pattern


def model_of(diffusion, model=None, kwargs=None, clip=False, ctm=False, teacher=False):
    return KarrasModel(diffusion, model or TinyADM(), kwargs or {}, clip, ctm, teacher, 0.002)


@pytest.mark.parametrize(
    "diffusion, options, kind",
    [
        (TinyOpenAIDiffusion(True), {}, "consistency"),
        (TinyOpenAIDiffusion(False), {}, "denoiser"),
        (TinySonyDiffusion(), dict(ctm=True), "trajectory"),
        (TinySonyDiffusion(), {}, "consistency"),
        (TinySonyDiffusion(), dict(teacher=True), "denoiser"),
        (None, dict(model=small_model("trajectory")), "trajectory"),
    ],
)
def test_kind(diffusion, options, kind):
    assert model_of(diffusion, **options).kind == kind
    assert is_two_time(diffusion) == isinstance(diffusion, TinySonyDiffusion)


@pytest.mark.parametrize(
    "diffusion, options",
    [(TinyOpenAIDiffusion(False), {}), (TinySonyDiffusion(), dict(teacher=True))],
)
def test_a_denoiser_is_not_sampled_in_one_step(diffusion, options):
    shape = (1, 1, 4, 4)
    with pytest.raises(ValueError, match="only denoises"):
        karras_sample(diffusion, TinyADM(), shape, 40, sampler="onestep", **options)


def test_answers_are_clamped_on_request():
    x, sigma = pattern(2, 1, 4, 4, dtype=torch.float64) * 80, torch.tensor([80.0, 70.0])
    x = x * 20
    free = model_of(TinyOpenAIDiffusion(True))(x, sigma)
    clipped = model_of(TinyOpenAIDiffusion(True), clip=True)
    assert free.abs().max() > 1
    assert torch.equal(clipped(x, sigma), free.clamp(-1, 1))
    assert torch.equal(clipped.jump(x, sigma, sigma / 2), free.clamp(-1, 1))


def test_errors():
    with pytest.raises(ValueError, match="neither denoise nor get_denoised_and_G"):
        model_of(object())
    with pytest.raises(ValueError, match=r"takes y only, got \['z'\]"):
        model_of(None, small_model(), {"z": 1})


def test_midpoint_steps_have_order_two():
    gaussian = Gaussian()
    errors = []
    for steps in (16, 32):
        sigmas = torch.linspace(4**0.5, 0.1**0.5, steps + 1, dtype=torch.float64) ** 2
        x = pattern(1, 1, 4, 4, dtype=torch.float64) * 4
        end = solve(gaussian, x, sigmas, KarrasDPM())
        exact = x * ((0.25 + 0.1**2) / (0.25 + 4**2)) ** 0.5
        errors.append(float((end - exact).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)
