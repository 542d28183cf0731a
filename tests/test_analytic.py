"""The analytic worlds themselves, against recorded closed forms in float64."""

import pytest
import torch

from ctm_fast.sigmas import karras_sigmas
from tests.analytic import Gaussian, GaussianNet, Mixture
from tests.fixtures import assert_within, load, sources, tolerance


@pytest.mark.parametrize("case", ["a", "b"])
@pytest.mark.parametrize("source", sources("analytic_gaussian"))
def test_gaussian(source, case):
    tensors, meta = load("analytic_gaussian", source)
    t, s, x_t = tensors["t"], tensors["s"], tensors[f"x_t_{case}"]
    data = Gaussian(tensors[f"mu_{case}"], float(tensors[f"sd_{case}"]))
    levels = list(zip(x_t, t, s, strict=True))
    for name, rows in (
        ("denoised", [data(x, start) for x, start, _ in levels]),
        ("score", [data.score(x, start) for x, start, _ in levels]),
        ("logp_t", [data.log_prob(x, start) for x, start, _ in levels]),
        ("x_s", [data.jump(x, start, end) for x, start, end in levels]),
        ("g", [data.g(x, start, end) for x, start, end in levels]),
    ):
        recorded = f"{name}_{case}"
        assert_within(torch.stack(rows), tensors[recorded], tolerance(meta, recorded))


def mixture(tensors):
    return Mixture(tensors["weights"], tensors["means"], tensors["stds"])


@pytest.mark.parametrize("source", sources("analytic_gmm2d"))
def test_mixture(source):
    tensors, meta = load("analytic_gmm2d", source)
    data = mixture(tensors)
    for name, function in (("denoised", data), ("score", data.score)):
        rows = [function(x, t) for x, t in zip(tensors["x_t"], tensors["t"], strict=True)]
        assert_within(torch.stack(rows), tensors[name], tolerance(meta, name))
    rows = [data.log_prob(tensors["x_lik"], sigma) for sigma in tensors["lik_sigmas"]]
    assert_within(torch.stack(rows), tensors["logp_sigma"], tolerance(meta, "logp_sigma"))


def test_one_dimensional_mixture_jump_is_the_gaussian_one_for_one_component():
    one = torch.ones(1, dtype=torch.float64)
    data, gaussian = Mixture(one, one[:, None] * 0.3, one * 0.5), Gaussian(0.3, 0.5)
    x = torch.linspace(-250, 250, 41, dtype=torch.float64)[:, None]
    for t, s in [(80.0, 0.002), (80.0, 3.0), (1.0, 0.5), (0.01, 0.002)]:
        start = x * t / 80
        assert torch.allclose(data.jump(start, t, s), gaussian.jump(start, t, s), atol=1e-9)


def test_one_dimensional_mixture_jump_follows_the_ode():
    double = {"dtype": torch.float64}
    data = Mixture(
        torch.tensor([0.3, 0.7], **double),
        torch.tensor([[-0.5], [0.6]], **double),
        torch.tensor([0.1, 0.2], **double),
    )
    x = torch.linspace(-3, 3, 13, **double)[:, None]
    for t in (0.05, 0.3, 2.0):
        step = 1e-4 * t
        ahead, back = data.jump(x, t, t + step), data.jump(x, t, t - step)
        slope = (ahead - back) / (2 * step)
        assert torch.allclose(slope, (x - data(x, t)) / t, rtol=1e-6, atol=1e-6)
    there = data.jump(x, 2.0, 0.05)
    assert torch.allclose(data.jump(data.jump(x, 2.0, 0.4), 0.4, 0.05), there, atol=1e-9)


@pytest.mark.parametrize(("mean", "std", "sigma_data"), [(0.0, 0.5, 0.5), (0.3, 1.7, 0.75)])
def test_gaussian_net_is_exact_at_every_pair_of_levels(mean, std, sigma_data):
    data = Gaussian(mean, std)
    model = GaussianNet(data, channels=3, resolution=2, sigma_data=sigma_data).double().denoiser()
    sigmas = karras_sigmas(18)
    t, s = torch.cartesian_prod(sigmas, sigmas).unbind(1)
    t, s = t[s <= t], s[s <= t]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(t), 3, 2, 2, dtype=torch.float64, generator=generator)
    x = mean + x * (std**2 + t**2).sqrt().reshape(-1, 1, 1, 1)
    assert torch.allclose(model(x, t), data(x, t), rtol=1e-9, atol=1e-10)
    assert torch.allclose(model.jump(x, t, s), data.jump(x, t, s), rtol=1e-9, atol=1e-10)
    assert torch.allclose(model.score(x, t), data.score(x, t), rtol=1e-6, atol=1e-6)
