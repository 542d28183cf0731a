"""Traces of Jacobians, and models whose gradients are not theirs."""

import pytest
import torch
from torch.func import jacrev

from ctm_fast import models
from ctm_fast.denoiser import Denoiser
from ctm_fast.kernels import use_backend
from ctm_fast.likelihood.divergence import (
    EXACT_DIMS,
    check_gradient,
    rademacher,
    resolve_trace,
    traced,
)
from ctm_fast.wrappers import wrap
from tests.analytic import Gaussian, column
from tests.likelihood.worlds import drawn

MIX = drawn(6, 6, seed=1)


def curved(x, sigma, labels=None):
    return torch.sin(x @ MIX.T + sigma[:, None])


def jacobians(x, sigma):
    return torch.stack([
        jacrev(lambda one, s=s: curved(one[None], s[None])[0])(image)
        for image, s in zip(x, sigma, strict=True)
    ])  # fmt: skip


def test_exact_trace_is_that_of_the_jacobian():
    x, sigma = drawn(4, 6), torch.tensor([0.1, 0.5, 1.0, 3.0], dtype=torch.float64)
    denoised, trace = traced(curved, x, sigma)
    assert torch.equal(denoised, curved(x, sigma)) and not denoised.requires_grad
    expected = jacobians(x, sigma).diagonal(dim1=1, dim2=2).sum(1)
    assert torch.allclose(trace, expected, atol=1e-13)


def test_probes_give_the_mean_of_quadratic_forms():
    x, sigma = drawn(4, 6), torch.full((4,), 0.5, dtype=torch.float64)
    v = rademacher([3, 1, 4, 1], 5, (6,))
    assert v.shape == (4, 5, 6) and set(v.flatten().tolist()) == {-1, 1}
    forms = torch.einsum("bpi,bij,bpj->bp", v.double(), jacobians(x, sigma), v.double())
    assert torch.allclose(traced(curved, x, sigma, None, v)[1], forms.mean(1), atol=1e-13)


def test_probes_belong_to_the_seed_of_an_image():
    many = rademacher([5, 6, 5], 4, (1, 8, 8))
    assert torch.equal(many[0], many[2]) and not torch.equal(many[0], many[1])
    assert torch.equal(rademacher([6], 2, (1, 8, 8))[0], many[1, :2])
    assert abs(float(many.float().mean())) < 0.15


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_network_of_ours_with_its_kernels(backend):
    net = models.build("digits", seed=0, img_resolution=4, model_channels=32, channel_mult=(1,),
                       num_blocks=1, label_dim=0, destination=True)  # fmt: skip
    with torch.no_grad():
        net.last_layer.weight.add_(drawn(*net.last_layer.weight.shape, scale=0.1))
    model, x, level = Denoiser(net).eval(), drawn(2, 1, 4, 4).float(), torch.tensor([0.3, 2.0])
    with use_backend(backend):
        trace = traced(model, x, level)[1]
    twin = model.double()
    by_columns = torch.zeros(2, dtype=torch.float64)
    for i in range(16):
        unit = torch.zeros(1, 16, dtype=torch.float64)
        unit[0, i] = 1e-5
        step = unit.view(1, 1, 4, 4)
        with torch.no_grad():
            change = twin(x.double() + step, level.double()) - twin(
                x.double() - step, level.double()
            )
        by_columns += change.flatten(1)[:, i] / 2e-5
    assert torch.allclose(trace.double(), by_columns, rtol=1e-4, atol=1e-4)


def test_default_trace():
    assert resolve_trace(None, 1, EXACT_DIMS) == "exact"
    assert resolve_trace(None, 1, EXACT_DIMS + 1) == "hutchinson"
    assert resolve_trace("exact", 1, 10**6) == "exact"
    with pytest.raises(ValueError, match="trace is 'full'; choose from"):
        resolve_trace("full", 1, 1)
    for probes in (0, True, 1.5):
        with pytest.raises(ValueError, match="probes is"):
            resolve_trace(None, probes, 1)


def test_gradients_that_are_lost_are_seen():
    data = Gaussian(0.0, 0.1)

    def blind(x, t):
        with torch.no_grad():
            return data(x, t)

    def velocity(y, t):
        x, sigma = y / column(1 - t, y), t / (1 - t)
        return (x - blind(x, sigma)) / column(sigma, y) - blind(x, sigma)

    x = drawn(1, 3, 4, 4)
    with pytest.raises(ValueError, match="no gradient in x"):
        check_gradient(lambda x, sigma, labels: blind(x, sigma), x, 0.5)
    # The part of x that the scalings add has a gradient; the network's has not.
    skip = wrap(velocity, kind="velocity", time="flow", shape=(3, 4, 4))
    assert torch.allclose(skip(x, 0.5), data(x, 0.5))
    with pytest.raises(ValueError, match="does not belong to its answers"):
        check_gradient(skip, x, 0.5)
    check_gradient(wrap(lambda x, t: data(x, t), kind="denoiser", shape=(3, 4, 4)), x, 0.5)
