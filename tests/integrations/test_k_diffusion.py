"""Door of k-diffusion against golden outputs, our own samplers and its contract."""

import pytest
import torch

from ctm_fast.integrations import k_diffusion
from ctm_fast.sampler import sample_gamma, sampling_sigmas

from ..sampler.worlds import small_model
from .tiny_hosts import PatternNoise, TinyKDiffusion, golden, pattern

SIGMAS = [20.0, 4.0, 0.5, 0.05, 0.0]
Y = {"y": torch.tensor([0, 2])}


def start(dtype=torch.float64):
    return pattern(2, 1, 4, 4, dtype=dtype) * 20


def noise_of(source):
    return lambda sigma, sigma_next: source.randn_like(start())


@pytest.fixture
def global_patterns(monkeypatch):
    """torch.randn_like as the host would call it, giving patterns."""
    source = PatternNoise()
    monkeypatch.setattr(torch, "randn_like", source.randn_like)
    return source


CHURN = dict(s_churn=20.0, s_tmin=0.05, s_tmax=10.0, s_noise=1.003)
CASES = [
    ("euler", "sample_euler", {}),
    ("heun", "sample_heun", {}),
    ("heun_churn", "sample_heun", CHURN),
    ("euler_churn", "sample_euler", CHURN),
    ("ancestral", "sample_euler_ancestral", dict(eta=0.7, s_noise=0.9)),
]


@pytest.mark.parametrize("name, function, options", CASES)
def test_the_hosts_own_samplers(name, function, options, global_patterns):
    model, sigmas = TinyKDiffusion(), golden("k_diffusion_sigmas")
    sample = getattr(k_diffusion, function)
    images = sample(model, start(), sigmas, extra_args=Y, disable=True, **options)
    torch.testing.assert_close(images, golden(f"k_diffusion_{name}"), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("function", ["sample_euler", "sample_heun", "sample_euler_ancestral"])
def test_callback(function):
    seen = []
    model = TinyKDiffusion().eval()
    sample = getattr(k_diffusion, function)
    torch.manual_seed(0)
    sample(model, start(), SIGMAS, Y, seen.append, True)
    assert [info["i"] for info in seen] == [0, 1, 2, 3]
    for info in seen:
        assert set(info) == {"x", "i", "sigma", "sigma_hat", "denoised"}
        assert float(info["sigma"]) == float(info["sigma_hat"]) == SIGMAS[info["i"]]
        with torch.no_grad():
            again = model(info["x"], info["sigma"] * torch.ones(2).double(), **Y)
        torch.testing.assert_close(info["denoised"], again)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("function", ["sample_euler", "sample_heun", "sample_euler_ancestral"])
def test_hosts_of_every_dtype(function, dtype):
    sample, options = getattr(k_diffusion, function), {}
    if function == "sample_euler_ancestral":
        unit = pattern(2, 1, 4, 4, step=1, dtype=torch.float64)
        options = {"noise_sampler": lambda sigma, sigma_next: unit}
    exact = sample(TinyKDiffusion(), start(), SIGMAS, Y, None, True, **options)
    images = sample(TinyKDiffusion(dtype), start(dtype), SIGMAS, Y, None, True, **options)
    assert images.dtype == dtype
    tolerance = {torch.float64: 0, torch.float32: 1e-5, torch.float16: 2e-2}[dtype]
    torch.testing.assert_close(images.double(), exact, rtol=tolerance, atol=tolerance)


def test_ode_samplers_draw_nothing_and_restore_modes():
    model, before = TinyKDiffusion().train(), torch.get_rng_state()
    model.inner.eval()
    images = k_diffusion.sample_heun(model, start(), SIGMAS, Y, disable=True)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training and not model.inner.training
    assert not images.requires_grad and not images.is_inference()
    expected = k_diffusion.sample_heun(TinyKDiffusion().eval(), start(), SIGMAS, Y, disable=True)
    assert torch.equal(images, expected)


def test_the_global_generator_is_used_where_noise_is_asked_for():
    before = torch.get_rng_state()
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        x = k_diffusion.sample_euler_ancestral(TinyKDiffusion(), start(), SIGMAS, Y, disable=True)
        runs.append(x)
    assert torch.equal(*runs)
    torch.set_rng_state(before)


def test_a_noise_sampler_makes_batches_independent():
    model = TinyKDiffusion()

    def noise_sampler(rows):
        return lambda sigma, sigma_next: pattern(
            2, 1, 4, 4, step=int(float(sigma) * 100), dtype=torch.float64
        )[rows]

    def run(rows):
        return k_diffusion.sample_heun(
            model,
            start()[rows],
            SIGMAS,
            {"y": Y["y"][rows]},
            disable=True,
            **CHURN,
            noise_sampler=noise_sampler(rows),
        )

    whole = run(slice(0, 2))
    torch.testing.assert_close(whole, torch.cat([run(slice(0, 1)), run(slice(1, 2))]))


def test_latents_are_never_rescaled():
    seen = []

    def model(x, sigma, **extra):
        seen.append(x)
        return torch.zeros_like(x)

    k_diffusion.sample_euler(model, start(), SIGMAS, disable=True)
    assert torch.equal(seen[0], start())


def test_gamma_and_exact_on_a_trajectory_model():
    model, source = small_model(), PatternNoise()
    x = pattern(2, 2, 4, 4, dtype=torch.float32) * 80
    sigmas = sampling_sigmas("gamma", 3)

    def noise(sigma, sigma_next):
        return source.randn_like(x)

    images = k_diffusion.sample_gamma(
        model.train(), x, sigmas, disable=True, gamma=0.3, noise_sampler=noise
    )
    assert model.training
    source.drawn = 0
    with torch.no_grad():
        expected = sample_gamma(
            model.eval(), x, sigmas, disable=True, gamma=0.3, noise_sampler=noise
        )
    assert torch.equal(images, expected)
    exact = k_diffusion.sample_exact(model, x, [*sigmas.tolist(), 0.0], disable=True)
    assert (exact - images).abs().max() > 1e-3


def test_consistency_functions():
    model, x = TinyKDiffusion(), start()
    one = k_diffusion.sample_onestep(model, x, [20.0, 0.002], Y, disable=True)
    ones = torch.ones(2, dtype=torch.float64)
    with torch.no_grad():
        expected = model.eval()(x, 20 * ones, **Y)
        torch.testing.assert_close(one, expected)
        two = k_diffusion.sample_cm_multistep(
            model,
            x,
            [20.0, 1.0, 0.002, 0.0],
            Y,
            disable=True,
            noise_sampler=noise_of(PatternNoise()),
        )
        again = expected + (1 - 0.002**2) ** 0.5 * pattern(2, 1, 4, 4, step=1, dtype=torch.float64)
        torch.testing.assert_close(two, model(again, ones, **Y))


def test_errors():
    x = start()
    with pytest.raises(ValueError, match="needs a model that jumps"):
        k_diffusion.sample_gamma(TinyKDiffusion(), x, SIGMAS, disable=True)
    with pytest.raises(ValueError, match="needs a model that jumps"):
        k_diffusion.sample_onestep(small_model("denoiser"), x, SIGMAS, disable=True)
    with pytest.raises(ValueError, match="strictly decreasing"):
        k_diffusion.sample_heun(TinyKDiffusion(), x, [1.0, 2.0], disable=True)
    with pytest.raises(ValueError, match="gamma is 2"):
        k_diffusion.sample_gamma(small_model(), x, SIGMAS, disable=True, gamma=2.0)
    with pytest.raises(TypeError, match="num_steps"):
        k_diffusion.sample_heun(TinyKDiffusion(), x, SIGMAS, num_steps=3)
    with pytest.raises(ValueError, match="S_churn >= 0"):
        k_diffusion.sample_heun(TinyKDiffusion(), x, SIGMAS, Y, disable=True, s_churn=-1.0)
