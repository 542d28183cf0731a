"""Paths between images: their ends are ordinary samples, and their noise is noise."""

import math

import pytest
import torch

from ctm_fast.editing import Encoder, Interpolator, slerp
from ctm_fast.sampler import Sampler

from ..sampler.worlds import small_model
from .worlds import Correlated, sampler

METHODS = [
    ("trajectory", dict(steps=2)),
    ("trajectory", dict(steps=3, gamma=0.5)),
    ("trajectory", dict(steps=3, gamma=1)),
    ("trajectory", dict(steps=3, corrector_steps=2)),
    ("consistency", dict(steps=3)),
    ("denoiser", dict(steps=4)),
    ("denoiser", dict(steps=4, method="churn")),
]


@pytest.mark.parametrize("kind, options", METHODS)
def test_the_ends_are_the_ordinary_samples(kind, options) -> None:
    from ..analytic import GaussianNet

    net = GaussianNet(destination=kind == "trajectory")
    plain = Sampler(net.denoiser(kind=kind), **options)
    path = Interpolator(plain)(3, 11, frames=5)
    assert torch.equal(path[:1], plain(seed=[3])) and torch.equal(path[-1:], plain(seed=[11]))
    assert not path.is_inference() and path.abs().max() <= 1
    steps = (path[1:] - path[:-1]).flatten(1).norm(dim=1)
    assert steps.max() < 0.6 * (path[-1] - path[0]).norm()


@pytest.mark.parametrize("gamma", [0, 0.5])
def test_ends_that_are_noise(gamma) -> None:
    plain = sampler(steps=2, gamma=gamma)
    noise = Encoder(sampler("denoiser"))(Correlated().images(2))
    path = Interpolator(plain)(noise[0], noise[1:], frames=3, seed=5)
    for end, state in ((path[:1], noise[:1]), (path[-1:], noise[1:])):
        torch.testing.assert_close(end, plain(seed=[5], noise=state), rtol=0, atol=1e-12)
    unit = Interpolator(sampler(steps=2, gamma=gamma, latents="unit"))
    torch.testing.assert_close(unit(noise[0] / 80, noise[1] / 80, frames=3, seed=5), path)


def test_all_frames_look_like_samples() -> None:
    """Spherical mixtures keep the variance, straight ones would halve it in the middle."""
    plain = sampler(steps=2, gamma=1, clip=False)
    middles = [Interpolator(plain)(2 * s, 2 * s + 1, frames=3)[1] for s in range(200)]
    variance = torch.stack(middles).var()
    assert abs(variance / Correlated().covariance.diagonal().mean() - 1) < 0.15


def test_the_arc() -> None:
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    points = slerp(x, y, torch.tensor([0.0, 0.5, 1.0]))
    half = math.sqrt(0.5)
    torch.testing.assert_close(points[1], torch.tensor([half, 2 * half]))
    assert torch.equal(points[0], x) and torch.equal(points[2], y)
    on_sphere = slerp(x, torch.tensor([-0.6, 0.8]), torch.linspace(0, 1, 7)).norm(dim=1)
    torch.testing.assert_close(on_sphere, torch.ones(7))
    assert torch.equal(slerp(x, x, torch.linspace(0, 1, 3)), x.expand(3, 2))
    assert torch.equal(slerp(0 * x, 0 * x, torch.linspace(0, 1, 3)), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="opposite directions"):
        slerp(x, -x, torch.tensor([0.5]))


def test_noise_of_the_steps_waits_for_no_device(monkeypatch) -> None:
    """Whatever reads a tensor in a step would wait for a GPU."""
    read, inside = [], []

    def step(info) -> None:
        inside.append(info["i"])

    real = torch.Tensor.__bool__
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda t: read.append(inside[-1:]) or real(t))
    options = dict(steps=3, gamma=0.5, corrector_steps=1, clip=False)
    plain = Sampler(small_model(), **options)
    Interpolator(plain)(1, 2, frames=3, callback=step)
    assert inside == [0, 1, 2] and [0] not in read and [1] not in read


def test_batches_do_not_matter() -> None:
    options = dict(steps=3, gamma=0.5)
    whole = Interpolator(sampler(**options))(1, 2, frames=5)
    split = Interpolator(sampler(**options, batch_size=2))(1, 2, frames=5)
    torch.testing.assert_close(split, whole, rtol=0, atol=1e-12)
    shorter = Interpolator(sampler(**options))(1, 2, frames=3)
    torch.testing.assert_close(shorter, whole[::2], rtol=0, atol=1e-12)


def test_labels_nfe_and_callback() -> None:
    plain = Sampler(small_model(label_dim=3), steps=2, clip=False)
    path, seen = Interpolator(plain), []
    ends = path(1, 2, frames=2, labels=[0, 2], callback=seen.append)
    torch.testing.assert_close(ends[1:], plain(seed=[2], labels=2))
    assert path.nfe == 2 and [info["i"] for info in seen] == [0, 1]
    with pytest.raises(ValueError, match="the model has 3 classes"):
        path(1, 2)


def test_bad_paths_are_refused() -> None:
    path, noise = Interpolator(sampler()), torch.zeros(1, 4, 4)
    with pytest.raises(ValueError, match="frames is 1; it must be an integer, at least 2"):
        path(1, 2, frames=1)
    with pytest.raises(ValueError, match="one end is a seed and the other is not"):
        path(1, noise)
    with pytest.raises(ValueError, match="first is a float; need"):
        path(1.5, noise)
    with pytest.raises(ValueError, match=r"second is \(2, 1, 4, 4\)"):
        path(noise, torch.zeros(2, 1, 4, 4))
