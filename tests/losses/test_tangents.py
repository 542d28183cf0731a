"""Derivatives along a direction: exactness, dropout masks, networks; normalised tangents."""

import pytest
import torch

from ctm_fast import models as networks
from ctm_fast.losses.tangents import (
    METHODS,
    NORMALISATIONS,
    check_normalisation,
    derivative,
    difference,
)
from ctm_fast.models import shared_dropout
from ctm_fast.rng import stream

SMALL = dict(model_channels=16, num_blocks=1, dropout=0.3, attn_resolutions=(4,))
NETWORKS = {
    "digits": SMALL,
    "ctm-digits": SMALL,
    "adm-imagenet64": {
        **SMALL,
        "model_channels": 32,  # heads are 64 wide
        "img_resolution": 8,
        "channel_mult": (1, 2),
        "label_dim": 3,
    },
}


def randn(seed, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=stream(seed), dtype=dtype)


def network(name, dtype=torch.float64):
    """(function of image and noise level, primals, tangents) of a tiny U-Net in training."""
    net = networks.build(name, seed=1, **NETWORKS[name]).to(dtype).train()
    with torch.no_grad():  # some layers start near zero
        for weight in net.parameters():
            weight += 0.05 * randn(9, *weight.shape, dtype=dtype)
    shape = (3, net.img_channels, 8, 8)

    def function(x, c):
        return net(x.to(dtype), c, c if net.has_destination else None)

    primals = randn(2, *shape, dtype=dtype), randn(3, 3, dtype=dtype)
    return function, primals, (randn(4, *shape, dtype=dtype), randn(5, 3, dtype=dtype))


@pytest.mark.parametrize("how", METHODS)
def test_known_function(how):
    x, y = randn(0, 4, 5), randn(1, 4)
    dx, dy = randn(2, 4, 5), randn(3, 4)

    def function(x, y):
        return x.sin() * y.exp()[:, None]

    expected = (x.cos() * dx + x.sin() * dy[:, None]) * y.exp()[:, None]
    found = derivative(function, (x, y), (dx, dy), how)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("how", METHODS)
def test_a_function_that_does_not_move(how):
    one = torch.ones(3)
    assert torch.equal(derivative(lambda x: one, (one,), (one,), how), torch.zeros(3))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_in_both_ways(name):
    function, primals, tangents = network(name)
    with shared_dropout("cpu", 5):
        exact = derivative(function, primals, tangents)
    assert not exact.requires_grad
    # The reference: three plain calls with one seed.
    ends, h = [], 1e-6
    for sign in (h, -h):
        with shared_dropout("cpu", 5), torch.no_grad():
            ends.append(function(*(p + sign * t for p, t in zip(primals, tangents))))
    reference = (ends[0] - ends[1]) / (2 * h)
    assert reference.abs().max() > 0.1
    torch.testing.assert_close(exact, reference, rtol=1e-6, atol=1e-7)
    with shared_dropout("cpu", 5):
        near = derivative(function, primals, tangents, "difference")
    torch.testing.assert_close(near, reference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", NETWORKS)
def test_difference_of_a_float32_network(name):
    single, primals, tangents = network(name, torch.float32)
    near = [*primals, *tangents]
    with shared_dropout("cpu", 5):
        exact = derivative(single, near[:2], near[2:])
    with shared_dropout("cpu", 5):
        found = difference(single, near[:2], near[2:])
    assert found.dtype == exact.dtype == torch.float32
    assert (found - exact).norm() < 1e-3 * exact.norm()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("how", METHODS)
def test_the_next_pass_has_the_same_dropout_masks(name, how):
    function, primals, tangents = network(name)
    seen = []

    def watched(*args):
        value = function(*args)
        seen.append(torch.autograd.forward_ad.unpack_dual(value).primal.detach())
        return value

    # Along no direction both methods call the function at the primals themselves.
    still = [torch.zeros_like(t) for t in tangents]
    torch.manual_seed(3)
    with shared_dropout("cpu", 5):
        derivative(watched, primals, still, how)
        plain = function(*primals)
        other = function(*primals)
    for value in seen:
        torch.testing.assert_close(value, plain, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(other, plain, atol=0.1)


class Forwardless(torch.autograd.Function):
    """A sine without forward-mode derivative."""

    @staticmethod
    def forward(ctx, x):
        return x.sin()


def test_a_function_without_forward_mode():
    x, dx = randn(0, 4), randn(1, 4)
    with pytest.raises(ValueError, match="use how='difference'"):
        derivative(Forwardless.apply, (x,), (dx,))
    found = derivative(Forwardless.apply, (x,), (dx,), "difference")
    torch.testing.assert_close(found, x.cos() * dx, rtol=1e-8, atol=1e-8)


def test_wrong_arguments():
    x = torch.ones(2)
    with pytest.raises(ValueError, match=r"unknown derivative 'exact'.*difference.*forward"):
        derivative(torch.sin, (x,), (x,), "exact")
    with pytest.raises(ValueError, match="cannot move along"):
        derivative(torch.sin, (x,), (torch.ones(3),))


def test_normalisations():
    g = randn(0, 6, 3, 4, 4) * torch.logspace(-6, 6, 6, dtype=torch.float64).reshape(6, 1, 1, 1)
    norms = g.flatten(1).norm(dim=1)
    found = {name: normalise(g, 0.1) for name, normalise in NORMALISATIONS.items()}
    sizes = {name: value.flatten(1).norm(dim=1) for name, value in found.items()}
    torch.testing.assert_close(sizes["norm"], norms / (norms + 0.1))
    assert (sizes["norm"] < 1).all()
    root = 48**0.5
    torch.testing.assert_close(sizes["rms"] / root, norms / root / (norms / root + 0.1))
    assert found["clip"].abs().max() == 1
    assert torch.equal(found["clip"][0], g[0])
    assert torch.equal(found["none"], g)
    for value in found.values():
        assert ((value == 0) | (value.sign() == g.sign())).all()
    zero = torch.zeros(2, 3, 4, 4)
    for normalise in NORMALISATIONS.values():
        assert torch.equal(normalise(zero, 0.1), zero)
        assert normalise(zero[:0], 0.1).shape == (0, 3, 4, 4)
    with pytest.raises(ValueError, match=r"unknown normalisation 'l2'.*clip.*norm"):
        check_normalisation("l2", 0.1)
    with pytest.raises(ValueError, match="offset must be positive"):
        check_normalisation("norm", 0.0)
