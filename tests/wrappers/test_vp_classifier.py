"""Classifiers of VP-scaled images: the time maps against the schedules' own definitions."""

import math

import pytest
import torch
from torch import nn

from ctm_fast.noise_embeddings import DiscreteTime
from ctm_fast.wrappers import ClassifierGuided, CosineTime, LinearTime, VPClassifier

from ..sampler.classes import Classes, start

TAUS = torch.linspace(0.001, 0.98, 25, dtype=torch.float64)


def test_linear_time() -> None:
    # abar = exp(-integral of beta), and sigma^2 = (1 - abar) / abar.
    abar = torch.exp(-(0.1 * TAUS + 19.9 * TAUS**2 / 2))
    sigma = ((1 - abar) / abar).sqrt()
    torch.testing.assert_close(LinearTime()(sigma), TAUS, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(LinearTime()(sigma.float()), TAUS.float(), rtol=1e-4, atol=1e-6)


def test_cosine_time() -> None:
    f = torch.cos((TAUS + 0.008) / 1.008 * math.pi / 2) ** 2
    abar = f / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    sigma = ((1 - abar) / abar).sqrt()
    torch.testing.assert_close(CosineTime()(sigma), TAUS, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(CosineTime()(sigma.float()), TAUS.float(), rtol=1e-4, atol=1e-6)
    ends = CosineTime()(torch.tensor([0.0, 1e6], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([0.0, 1.0]).double(), rtol=0, atol=1e-5)


def test_scaled_cosine_time_is_the_index_of_adm_s_level() -> None:
    index = DiscreteTime("cosine")
    sigmas = index.sigmas[[0, 10, 500, 900]]
    # Level i is the end of step i, tau = (i + 1) / 1000.
    found = 1000 * CosineTime()(sigmas) - 1
    torch.testing.assert_close(found, index(sigmas), rtol=1e-6, atol=1e-6)


INDEX = DiscreteTime("cosine")
MAPS = [("linear", LinearTime()), ("cosine", CosineTime()), (INDEX, INDEX)]


@pytest.mark.parametrize("time, tau", MAPS)
@pytest.mark.parametrize("scale", [1.0, 999.0])
def test_inputs(time, tau, scale) -> None:
    seen = []

    def classifier(x, t):
        seen.append((x, t))
        return x.flatten(1)

    x, sigma = start(3, sigma=1.0), torch.tensor([0.01, 1.0, 70.0], dtype=torch.float64)
    logits = VPClassifier(classifier, time, scale)(x, sigma)
    shrunk = x / (1 + sigma**2).sqrt()[:, None, None, None]
    torch.testing.assert_close(seen[0][0], shrunk)
    torch.testing.assert_close(seen[0][1], scale * tau(sigma))
    assert torch.equal(logits, seen[0][0].flatten(1))


def test_guidance_by_a_vp_classifier_is_guidance_by_what_it_knows() -> None:
    data = Classes(labelled=False)

    def vp(y, tau):
        # The same classes seen as y = sqrt(abar) x0 + sqrt(1 - abar) noise.
        abar = torch.exp(-(0.1 * tau + 19.9 * tau**2 / 2))
        sigma = ((1 - abar) / abar).sqrt()
        return data.log_joint(y / abar.sqrt()[:, None, None, None], sigma)

    x, labels = start(4, sigma=1.0), torch.tensor([0, 1, 2, 0])
    own = ClassifierGuided(data, data.classifier, weight=2.0)
    theirs = ClassifierGuided(data, VPClassifier(vp, "linear", scale=1), weight=2.0)
    for sigma in (0.1, 1.0, 20.0):
        torch.testing.assert_close(
            theirs(x, sigma, labels), own(x, sigma, labels), rtol=1e-6, atol=1e-6
        )


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3, dtype=torch.bfloat16)

    def forward(self, x, t):
        assert x.dtype == torch.bfloat16 and t.dtype == torch.float32
        return self.linear(x.flatten(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_half_precision_is_entered_after_the_scaling(dtype) -> None:
    data = Classes(labelled=False)
    guided = ClassifierGuided(data, VPClassifier(Half()))
    x, labels = start(4).to(dtype), torch.tensor([0, 1, 2, 0])
    found = guided(x, 80.0, labels)
    assert found.dtype == dtype and found.isfinite().all()
    assert "scale=999" in repr(VPClassifier(Half()))


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown time 'vp'"):
        VPClassifier(Half(), "vp")
    with pytest.raises(ValueError, match="scale is 0"):
        VPClassifier(Half(), scale=0)
    with pytest.raises(ValueError, match="beta_min"):
        LinearTime(2.0, 1.0)
    with pytest.raises(ValueError, match="offset is -1"):
        CosineTime(-1)
