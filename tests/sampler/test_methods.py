"""The table of sampling methods, and what every member must do."""

import inspect

import pytest
import torch

from ctm_fast.sampler import Sampler, sampling_sigmas
from ctm_fast.sampler.methods import JUMP_METHODS, METHODS, PHASED, SAMPLERS

from .worlds import World, latents, small_model

# One valid call of each method: extra keywords of its function.
OPTIONS = {"jumps": {"landings": [0.002]}}


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_k_diffusion_form(name):
    parameters = list(inspect.signature(SAMPLERS[name]).parameters.values())
    first = ["model", "x", "sigmas", "extra_args", "callback", "disable"]
    assert [p.name for p in parameters[:6]] == first
    assert all(p.default is None for p in parameters[3:6])
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[6:])
    assert "noise_sampler" in [p.name for p in parameters]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", SAMPLERS.names())
def test_returns_the_dtype_of_x_and_leaves_x_alone(name, dtype):
    steps = 1 if name in ("onestep", "jumps") else 3
    x = latents(2).to(dtype)
    before = x.clone()
    sigmas = sampling_sigmas(name, steps).float()
    images = SAMPLERS[name](World(), x, sigmas, disable=True, **OPTIONS.get(name, {}))
    assert images.dtype == dtype and images.shape == x.shape and images.isfinite().all()
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_callback_and_extra_args(name):
    steps = 1 if name in ("onestep", "jumps") else 3
    model, seen = small_model(label_dim=3), []
    sigmas = sampling_sigmas(name, steps)
    x, options = latents(2).float(), OPTIONS.get(name, {})

    def run(labels, callback=None):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            args = {"labels": torch.tensor(labels)}
            return SAMPLERS[name](model.eval(), x, sigmas, args, callback, True, **options)

    images = run([0, 2], seen.append)
    assert not torch.equal(images, run([1, 2]))
    assert torch.equal(images, run([0, 2])), "a callback must not change the images"
    assert [info["i"] for info in seen] == list(range(steps))
    for info, sigma in zip(seen, sigmas.tolist()[:-1], strict=True):
        assert set(info) == {"x", "i", "sigma", "sigma_hat", "denoised"}
        assert float(info["sigma"]) == pytest.approx(sigma)
        assert float(info["sigma_hat"]) >= float(info["sigma"])
        assert info["x"].shape == info["denoised"].shape == x.shape
    assert torch.equal(seen[0]["x"], x)


@pytest.mark.parametrize("name", METHODS)
def test_network_calls_are_counted_right(name):
    for steps in [1] if name in ("onestep", "jumps") else [1, 2, 5]:
        world = World()
        options = {"sigmas": [80.0, 0.002], "landings": [0.002]} if name == "jumps" else {}
        if name == PHASED:
            world, options = World("consistency"), {"edges": range(1, steps)}
        sampler = Sampler(world, steps=steps, method=name, **options)
        sampler(3)
        assert sampler.nfe == world.calls
        assert sampler.nfe == (steps if name in (*JUMP_METHODS, "euler", PHASED) else 2 * steps - 1)
