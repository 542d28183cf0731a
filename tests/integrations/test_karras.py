"""Door of openai/consistency_models and sony/ctm against golden outputs and its contract."""

import pytest
import torch

from ctm_fast.integrations.karras import JUMPS, SAMPLER_NAMES, karras_sample, levels, ramp_levels
from ctm_fast.sampler import Sampler, image_seeds
from ctm_fast.sigmas import karras_sigmas

from ..sampler.worlds import small_model
from .tiny_hosts import (
    PatternNoise,
    TinyADM,
    TinyOpenAIDiffusion,
    TinySonyDiffusion,
    golden,
    pattern,
)

SHAPE = (2, 1, 4, 4)
Y = {"y": torch.tensor([0, 2])}
CHURN = dict(s_churn=30.0, s_tmin=0.05, s_tmax=50.0, s_noise=1.003)
OPENAI = [
    *((name, name, 7, {}) for name in ("heun", "dpm", "euler", "ancestral", "progdist")),
    ("heun_churn", "heun", 7, CHURN),
    ("dpm_churn", "dpm", 7, CHURN),
    ("heun_unclipped", "heun", 7, dict(clip_denoised=False)),
    ("onestep", "onestep", 40, {}),
    ("multistep", "multistep", 40, dict(ts=(0, 5, 22, 39))),
]


@pytest.mark.parametrize("name, sampler, steps, options", OPENAI)
def test_openai(name, sampler, steps, options):
    diffusion = TinyOpenAIDiffusion(distillation=sampler in ("onestep", "multistep"))
    images = karras_sample(
        diffusion,
        TinyADM(),
        SHAPE,
        steps=steps,
        model_kwargs=Y,
        device="cpu",
        sampler=sampler,
        generator=PatternNoise(),
        **options,
    )
    torch.testing.assert_close(images, golden(f"openai_{name}"), rtol=1e-5, atol=1e-5)


CTM = dict(ctm=True, clip_denoised=False, clip_output=False)
TS = dict(ts=[0, 13, 39])
SONY = [
    *((name, name, 3, CTM) for name in ("exact", "cm_multistep", "gamma_multistep")),
    *((f"{n}_ts", n, 40, CTM | TS) for n in ("exact", "cm_multistep", "gamma_multistep")),
    ("gamma", "gamma", 40, CTM | dict(ind_1=22, ind_2=13)),
    ("heun", "heun", 6, CTM),
    ("exact_clipped", "exact", 3, dict(ctm=True)),
    ("teacher_heun", "heun", 6, dict(teacher=True)),
    ("teacher_euler", "euler", 6, dict(teacher=True)),
    ("onetime_onestep", "onestep", 40, {}),
    ("onetime_multistep", "multistep", 40, dict(ts=[0, 22, 39])),
]


@pytest.mark.parametrize("name, sampler, steps, options", SONY)
def test_sony(name, sampler, steps, options):
    model = TinyADM()
    model.two_times = options.get("ctm", False)
    images = karras_sample(
        diffusion=TinySonyDiffusion(),
        model=model,
        shape=SHAPE,
        steps=steps,
        model_kwargs=Y,
        device="cpu",
        sampler=sampler,
        generator=PatternNoise(),
        x_T=pattern(*SHAPE, dtype=torch.float64) * 80,
        **options,
    )
    assert images.dtype == torch.float64
    torch.testing.assert_close(images, golden(f"sony_{name}"), rtol=2e-5, atol=2e-5)


def openai(generator, model=None, sampler="multistep", **options):
    """The call of openai's image_sample.py."""
    options = dict(ts=(0, 20, 39) if sampler == "multistep" else None, shape=SHAPE) | options
    return karras_sample(
        TinyOpenAIDiffusion(True),
        model or TinyADM(torch.float32),
        steps=40,
        model_kwargs=options.pop("model_kwargs", Y),
        device="cpu",
        clip_denoised=True,
        sampler=sampler,
        sigma_min=0.002,
        sigma_max=80.0,
        s_churn=0.0,
        s_tmin=0.0,
        s_tmax=float("inf"),
        s_noise=1.0,
        generator=generator,
        **options,
    )


def test_one_seed_per_image_makes_batches_independent():
    seeds = image_seeds(0, 2)
    whole = openai(seeds)
    rows = [
        openai([seed], shape=(1, 1, 4, 4), model_kwargs={"y": Y["y"][i : i + 1]})
        for i, seed in enumerate(seeds)
    ]
    torch.testing.assert_close(whole, torch.cat(rows), rtol=0, atol=1e-6)
    generators = [torch.Generator().manual_seed(i) for i in (4, 5)]
    torch.testing.assert_close(
        openai(generators)[1:],
        openai(
            [torch.Generator().manual_seed(5)],
            shape=(1, 1, 4, 4),
            model_kwargs={"y": Y["y"][1:]},
        ),
    )


def test_generators():
    before = torch.get_rng_state()
    one, two = (openai(torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(7)
    named = openai(None)
    torch.manual_seed(7)
    assert torch.equal(named, openai(None)), "the global generator is the host's default"
    torch.set_rng_state(before)


def test_modes_and_gradients():
    model = TinyADM(torch.float32).train()
    model.inner.eval()
    images = openai(PatternNoise(), model)
    assert model.training and not model.inner.training
    assert not images.requires_grad and not images.is_inference()
    assert torch.equal(images, openai(PatternNoise(), TinyADM(torch.float32).eval()))


@pytest.mark.parametrize("sampler", ["exact", "gamma_multistep", "heun", "onestep"])
def test_a_denoiser_of_ours_needs_no_diffusion(sampler):
    model = small_model(label_dim=3)
    x_T = pattern(2, 2, 4, 4) * 80
    options = dict(clip_denoised=False, x_T=x_T, model_kwargs=Y, gamma=0.0)
    steps = 4 if sampler == "heun" else 2
    images = karras_sample(None, model, x_T.shape, steps, sampler=sampler, **options)
    names = {"gamma_multistep": "exact"}
    steps = 1 if sampler == "onestep" else steps
    ours = Sampler(model, steps=steps, method=names.get(sampler, sampler), freeze=False)
    torch.testing.assert_close(images, ours(noise=x_T, labels=Y["y"]), rtol=1e-5, atol=1e-5)


def test_clamping_inside_the_loop_matters():
    inside = openai(PatternNoise(), sampler="onestep")
    assert inside.abs().max() <= 1
    model = small_model()
    x_T = pattern(1, 2, 4, 4) * 80
    runs = [
        karras_sample(None, model, x_T.shape, 2, x_T=x_T, sampler="exact", clip_denoised=clip)
        for clip in (True, False)
    ]
    assert (runs[0] - runs[1]).abs().max() > 1e-2


def test_callback_and_number_of_levels():
    seen = []
    openai(PatternNoise(), callback=seen.append, sampler="heun")
    assert [info["i"] for info in seen] == list(range(40))
    assert set(seen[0]) == {"x", "i", "sigma", "sigma_hat", "denoised"}


def test_levels():
    grid = karras_sigmas(5).tolist()
    assert levels("heun", 5, 0.002, 80, 7, False) == [*grid, 0.0]
    assert levels("euler", 4, 0.002, 80, 7, True) == [*grid, 0.0]
    assert levels("progdist", 4, 0.002, 80, 7, False) == grid
    assert levels("exact", 4, 0.002, 80, 7, True) == grid
    assert levels("onestep", 40, 0.002, 80, 7, False) == [80.0, 0.002]
    assert levels("heun", 1, 0.002, 80, 7, False) == [80.0, 0.0]
    grid = karras_sigmas(40)
    expected = grid[[0, 22, 39]].tolist()
    assert ramp_levels([0, 22, 39], 40, 0.002, 80, 7) == pytest.approx(expected, rel=1e-9)
    assert set(JUMPS) < set(SAMPLER_NAMES) and len(SAMPLER_NAMES) == 11


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(sampler="dpmpp"), "unknown sampler 'dpmpp'"),
        (dict(ts=(0, 22, 30)), r"ascend from 0 .* to 39"),
        (dict(ts=(39, 22, 0)), "ascend"),
        (dict(ts=None), "needs ts"),
        (dict(sampler="onestep", ts=(0, 39)), "no effect"),
        (dict(classifier=object()), "classifier guidance is not built"),
        (dict(edm_style=True), "edm_style=True is not built"),
        (dict(generator_type="determ"), "get_generator"),
        (dict(x_T=torch.zeros(1, 1, 4, 4)), r"x_T has shape \(1, 1, 4, 4\)"),
        (dict(sampler="exact", ts=None), "jumps to its sigma_min"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        openai(None, **options)


def test_churn_and_unknown_keywords():
    options = dict(model_kwargs=Y, device="cpu")
    host = (TinyOpenAIDiffusion(True), TinyADM(), SHAPE, 40)
    with pytest.raises(ValueError, match="s_churn=1"):
        karras_sample(*host, sampler="onestep", s_churn=1.0, **options)
    with pytest.raises(TypeError, match="num_steps"):
        karras_sample(*host, num_steps=4, **options)
