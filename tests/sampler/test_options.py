"""Constructor arguments of `Sampler`: defaults per kind of model, and what is refused."""

import math

import pytest
import torch

from ctm_fast.sampler import Sampler, sampling_sigmas, two_step

from .worlds import World, small_model, unet_model

TRAJECTORY, CONSISTENCY, DENOISER = World("trajectory"), World("consistency"), World("denoiser")
UNET = unet_model()


@pytest.mark.parametrize(
    "model, options, method, steps",
    [
        (TRAJECTORY, {}, "exact", 1),
        (TRAJECTORY, {"steps": 2}, "exact", 2),
        (TRAJECTORY, {"steps": 2, "gamma": 0.3}, "gamma", 2),
        (TRAJECTORY, {"method": "gamma", "steps": 4}, "gamma", 4),
        (TRAJECTORY, {"method": "heun"}, "heun", 18),
        (TRAJECTORY, {"sigmas": [80, 1, 0.5, 0.002]}, "exact", 3),
        (CONSISTENCY, {}, "onestep", 1),
        (CONSISTENCY, {"steps": 2}, "cm_multistep", 2),
        (CONSISTENCY, {"sigmas": [80, 0.8, 0.002]}, "cm_multistep", 2),
        (CONSISTENCY, {"sigmas": [80, 0.002, 0]}, "onestep", 1),
        (CONSISTENCY, {"method": "gamma", "steps": 2, "gamma": 1}, "gamma", 2),
        (DENOISER, {}, "heun", 18),
        (DENOISER, {"method": "churn", "steps": 256}, "churn", 256),
    ],
)
def test_defaults(model, options, method, steps):
    sampler = Sampler(model, **options)
    assert (sampler.method, sampler.steps, len(sampler.sigmas)) == (method, steps, steps + 1)


def test_levels_follow_the_range_of_the_model():
    model = World(sigma_min=0.01, sigma_max=10.0)
    expected = sampling_sigmas("exact", 3, 0.01, 10.0, rho=3)
    assert Sampler(model, steps=3, rho=3).sigmas == tuple(expected.tolist())
    assert Sampler(World("trajectory"), steps=2, method="euler").sigmas[-1] == 0.002
    assert Sampler(World("denoiser"), steps=2, method="euler").sigmas[-1] == 0


def test_own_levels_may_be_a_list_or_a_tensor():
    tensor = torch.tensor([80.0, 1.0, 0.002])
    assert Sampler(TRAJECTORY, sigmas=tensor).sigmas == tuple(tensor.tolist())
    assert Sampler(TRAJECTORY, sigmas=[80, 1, 0.002, 0]).sigmas == (80, 1, 0.002)
    assert Sampler(DENOISER, sigmas=[80, 1, 0]).sigmas == (80, 1, 0)


def test_churn_defaults_are_printed_and_others_have_none():
    assert "S_churn=40.0" in repr(Sampler(DENOISER, method="churn"))
    assert Sampler(DENOISER, method="churn", S_churn=3).S_churn == 3
    assert Sampler(DENOISER).S_churn is None


def test_two_step_sampler():
    sigmas, landings = two_step(12, 8)
    sampler = Sampler(TRAJECTORY, method="jumps", sigmas=sigmas, landings=landings)
    assert sampler.nfe == 2 and sampler.landings == tuple(landings)


@pytest.mark.parametrize(
    "model, options, named",
    [
        (TRAJECTORY, {"steps": 0}, "steps is 0"),
        (TRAJECTORY, {"steps": 2.0}, "2.0"),
        (TRAJECTORY, {"steps": True}, "True"),
        (TRAJECTORY, {"method": "dpm"}, "cm_multistep"),
        (TRAJECTORY, {"gamma": -0.1}, r"\[0, 1\]"),
        (TRAJECTORY, {"gamma": 1.1}, r"\[0, 1\]"),
        (TRAJECTORY, {"gamma": math.nan}, r"\[0, 1\]"),
        (TRAJECTORY, {"gamma": 0.5, "method": "exact"}, "method='gamma'"),
        (TRAJECTORY, {"method": "onestep", "steps": 2}, "cm_multistep"),
        (TRAJECTORY, {"method": "onestep", "sigmas": [80, 1, 0.002]}, "cm_multistep"),
        (TRAJECTORY, {"sigmas": [80, 1, 0.002], "steps": 3}, "2 steps"),
        (TRAJECTORY, {"sigmas": [1, 80]}, "decreasing"),
        (TRAJECTORY, {"sigmas": [80, 80]}, "decreasing"),
        (TRAJECTORY, {"sigmas": [80, math.nan]}, "nan"),
        (TRAJECTORY, {"sigmas": [80]}, "two levels"),
        (TRAJECTORY, {"sigmas": [90, 1]}, r"90.*\[0.002, 80.0\]"),
        (TRAJECTORY, {"sigmas": [80, 0.001]}, r"0.001.*\[0.002, 80.0\]"),
        (TRAJECTORY, {"rho": 0}, "rho"),
        (TRAJECTORY, {"rho": math.nan}, "rho"),
        (TRAJECTORY, {"batch_size": 0}, "batch_size"),
        (TRAJECTORY, {"latents": "raw"}, "scaled"),
        (TRAJECTORY, {"freeze": True}, "World of NoneType"),
        (TRAJECTORY, {"graphs": True}, "frozen"),
        (TRAJECTORY, {"buckets": (1, 2)}, "without graphs"),
        (UNET, {"freeze": False, "graphs": True}, "frozen"),
        (UNET, {"graphs": False, "buckets": (1, 2)}, "without graphs"),
        (UNET, {"buckets": (0, 2)}, r"\(0, 2\)"),
        (UNET, {"buckets": ()}, "at least one"),
        (UNET, {"buckets": (1, 8), "batch_size": 4}, "batch_size=4"),
        (small_model(), {"freeze": True}, "Denoiser of Net"),
        (TRAJECTORY, {"state_dtype": torch.float16}, "float64"),
        (TRAJECTORY, {"dtype": torch.int8}, "bfloat16"),
        (TRAJECTORY, {"dtype": torch.bfloat16}, "dtype attribute"),
        (TRAJECTORY, {"method": "jumps"}, "landings"),
        (TRAJECTORY, {"landings": [0.002]}, "'jumps'"),
        (TRAJECTORY, {"method": "jumps", "sigmas": [80, 1, 0.002], "landings": [2, 0.002]}, "2"),
        (
            TRAJECTORY,
            {"method": "jumps", "sigmas": [80, 1, 0.002], "landings": [0.001, 0.002]},
            "range",
        ),
        (TRAJECTORY, {"S_churn": 3}, "'churn'"),
        (DENOISER, {"method": "heun", "S_noise": 1.0}, "'churn'"),
        (DENOISER, {"method": "churn", "S_churn": -1}, "-1"),
        (DENOISER, {"method": "churn", "S_min": 3, "S_max": 1}, "S_min"),
        (DENOISER, {"method": "churn", "S_noise": math.nan}, "nan"),
        (DENOISER, {"method": "exact"}, "heun"),
        (DENOISER, {"gamma": 0.5}, "gamma"),
        (CONSISTENCY, {"method": "heun"}, "onestep"),
        (CONSISTENCY, {"method": "exact", "steps": 2}, "cm_multistep"),
        (CONSISTENCY, {"sigmas": [80, 1, 0.01]}, r"0\.01"),
        (CONSISTENCY, {"gamma": 0.3, "steps": 2}, "gamma"),
        (World("velocity"), {}, "velocity"),
        (lambda x, sigma: x, {}, "Denoiser"),
    ],
)
def test_refused(model, options, named):
    with pytest.raises(ValueError, match=named):
        Sampler(model, **options)


def test_what_is_frozen_and_captured_by_default():
    for model in (TRAJECTORY, small_model()):
        sampler = Sampler(model)
        assert (sampler.freeze, sampler.graphs, sampler.buckets) == (False, None, None)
    sampler = Sampler(UNET)
    assert (sampler.freeze, sampler.graphs) == (True, None)
    assert sampler.buckets == (1, 2, 4, 8, 16, 32, 64, 128)
    assert Sampler(UNET, batch_size=10).buckets == (1, 2, 4, 8, 10)
    assert Sampler(UNET, batch_size=200).buckets[-2:] == (128, 200)
    assert Sampler(UNET, buckets=[8, 2, 8]).buckets == (2, 8)
    assert Sampler(UNET, graphs=False).buckets is None
    assert Sampler(UNET, freeze=False).buckets is None
    assert "freeze=True, graphs=None, buckets=(1, 2, 4)" in repr(Sampler(UNET, batch_size=4))


def test_unknown_options_are_an_error():
    with pytest.raises(TypeError, match="num_steps"):
        Sampler(TRAJECTORY, num_steps=3)
    with pytest.raises(TypeError, match="noise_device"):
        Sampler(TRAJECTORY, noise_device="cpu")
    with pytest.raises(TypeError, match="noise_device"):
        Sampler(TRAJECTORY)(1, noise_device="cpu")
