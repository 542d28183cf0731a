"""Door of FastGen against loops written out here and its contract."""

import copy
import pickle
from itertools import pairwise

import pytest
import torch

from ctm_fast.integrations.fastgen import FastGenSampler
from ctm_fast.sampler import sampling_sigmas

from .tiny_hosts import PatternNoise, TinyFastGen, pattern

CONDITION, NEGATIVE = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0])


def start(dtype=torch.float64):
    return pattern(2, 1, 4, 4, dtype=dtype)


def full(t):
    return torch.full((2,), float(t), dtype=torch.float64)


@pytest.mark.parametrize("time", ["edm", "flow"])
@pytest.mark.parametrize("latents", ["unit", "scaled"])
def test_heun_on_a_denoiser(time, latents):
    network = TinyFastGen()
    sampler = FastGenSampler(network, kind="denoiser", time=time, latents=latents)
    images = sampler.sample(start(), CONDITION, num_steps=4)
    grid = torch.linspace(1, 0, 5).double() if time == "flow" else sampling_sigmas("heun", 4)
    x = start() * (grid[0] if latents == "unit" else 1)
    network.eval()
    with torch.no_grad():
        for i, (t, r) in enumerate(pairwise(grid)):
            d = (x - network(x, full(t), CONDITION)) / t
            euler = x + (r - t) * d
            if i < 3:
                d = (d + (euler - network(euler, full(r), CONDITION)) / r) / 2
            x = x + (r - t) * d
    torch.testing.assert_close(images, x, rtol=1e-9, atol=1e-9)


def test_flow_euler_is_the_straight_line():
    network = TinyFastGen().eval()
    sampler = FastGenSampler(network, kind="denoiser", time="flow", method="euler")
    x, images = start(), sampler.sample(start(), num_steps=2)
    with torch.no_grad():
        for t in (1.0, 0.5):
            x = x - 0.5 * (x - network(x, full(t))) / t
    torch.testing.assert_close(images, x)


@pytest.mark.parametrize("time", ["edm", "flow"])
def test_two_calls_of_a_consistency_network(time):
    network, noise = TinyFastGen(), PatternNoise()
    times = (80.0, 0.8, 0.0) if time == "edm" else (1.0, 0.4, 0.0)
    sampler = FastGenSampler(network, kind="consistency", time=time, times=times)
    images = sampler.sample(start(), CONDITION, generator=noise)
    network.eval()
    unit = pattern(2, 1, 4, 4, step=1, dtype=torch.float64)
    with torch.no_grad():
        x = network(start() * times[0], full(times[0]), CONDITION)
        x = (x if time == "edm" else (1 - times[1]) * x) + times[1] * unit
        x = network(x, full(times[1]), CONDITION)
    torch.testing.assert_close(images, x)
    assert noise.drawn == 1


@pytest.mark.parametrize("time", ["edm", "flow"])
def test_jumps_tell_the_network_where_they_go(time):
    network = TinyFastGen()
    images = FastGenSampler(network, "trajectory", time).sample(start(), CONDITION, num_steps=2)
    grid = [1.0, 0.5, 0.0] if time == "flow" else [80.0, 0.002, 0.0]
    x = start() * grid[0]
    network.eval()
    with torch.no_grad():
        for t, r in pairwise(grid):
            g = network(x, full(t), CONDITION, r=full(r))
            x = r / t * x + (1 - r / t) * g
    torch.testing.assert_close(images, x)


def test_average_velocity_of_a_gaussian_flow_is_exact_in_one_step():
    """For data at 0 the flow is x_r = (r/t) x_t, whatever the grid."""

    def network(x_t, t, condition, r=None, fwd_pred_type="x0"):
        return torch.zeros_like(x_t)

    sampler = FastGenSampler(network, "trajectory", "flow", times=(1.0, 0.3, 0.0))
    assert sampler.sample(start()).abs().max() == 0


def test_guidance():
    network = TinyFastGen()
    sampler = FastGenSampler(network, kind="denoiser", method="euler", times=(5.0, 0.0))
    images = sampler.sample(start(), CONDITION, NEGATIVE, guidance_scale=3.0)
    network.eval()
    with torch.no_grad():
        own, weak = (network(start() * 5, full(5), c) for c in (CONDITION, NEGATIVE))
    torch.testing.assert_close(images, weak + 3 * (own - weak))
    for options in (dict(guidance_scale=3.0), dict(neg_condition=NEGATIVE)):
        with pytest.raises(ValueError, match="go together"):
            sampler.sample(start(), CONDITION, **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("kind", ["denoiser", "consistency", "trajectory"])
def test_hosts_of_every_dtype(kind, dtype):
    def run(dtype):
        sampler = FastGenSampler(TinyFastGen(dtype), kind, "flow")
        noise = PatternNoise()
        return sampler.sample(start(dtype), CONDITION, num_steps=3, generator=noise)

    images = run(dtype)
    assert images.dtype == dtype
    tolerance = {torch.float64: 0, torch.float32: 1e-5, torch.float16: 2e-2}[dtype]
    torch.testing.assert_close(images.double(), run(torch.float64), rtol=tolerance, atol=tolerance)


def test_modes_randomness_and_batch_split():
    network, before = TinyFastGen().train(), torch.get_rng_state()
    network.inner.eval()
    sampler = FastGenSampler(network, "consistency")
    whole = sampler.sample(start(), CONDITION, num_steps=3, generator=[5, 6])
    rows = [
        sampler.sample(start()[i : i + 1], CONDITION[i : i + 1], num_steps=3, generator=[5 + i])
        for i in (0, 1)
    ]
    torch.testing.assert_close(whole, torch.cat(rows))
    assert torch.equal(before, torch.get_rng_state())
    assert network.training and not network.inner.training and not whole.requires_grad
    sampler.sample(start(), CONDITION, num_steps=2)
    assert not torch.equal(before, torch.get_rng_state()), "the host's default is global"
    torch.set_rng_state(before)


def test_callback():
    seen = []
    FastGenSampler(TinyFastGen(), "trajectory").sample(start(), num_steps=2, callback=seen.append)
    assert [info["i"] for info in seen] == [0, 1]
    assert set(seen[0]) == {"x", "i", "sigma", "sigma_hat", "denoised"}
    assert torch.equal(seen[1]["x"], seen[0]["denoised"])


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(kind="velocity"), "kind is 'velocity'"),
        (dict(kind="denoiser", time="ddpm"), "time is 'ddpm'"),
        (dict(kind="denoiser", method="exact"), "method is 'exact'"),
        (dict(kind="denoiser", latents="raw"), "latents is 'raw'"),
        (dict(kind="denoiser", times=(1.0, 2.0, 0.0)), "strictly decreasing"),
        (dict(kind="denoiser", times=(2.0, 1.0)), "must end at 0"),
    ],
)
def test_bad_choices(options, message):
    with pytest.raises(ValueError, match=message):
        FastGenSampler(TinyFastGen(), **options)


def test_bad_calls():
    sampler = FastGenSampler(TinyFastGen(), "denoiser", times=(2.0, 1.0, 0.0))
    with pytest.raises(ValueError, match=r"t_list=\[1\]"):
        sampler.sample(start(), t_list=[1])
    with pytest.raises(ValueError, match="times has 2 steps"):
        sampler.sample(start(), num_steps=3)
    with pytest.raises(ValueError, match="num_steps is 0"):
        FastGenSampler(TinyFastGen(), "denoiser").sample(start(), num_steps=0)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies(again):
    sampler = FastGenSampler(TinyFastGen(), "denoiser", times=[2.0, 0.0])
    assert torch.equal(again(sampler).sample(start()), sampler.sample(start()))
