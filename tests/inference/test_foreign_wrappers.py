"""Scalings around a frozen network; what they compute is compared in test_foreign.py."""

import dataclasses
import math

import pytest
import torch

from ctm_fast.inference import freeze
from ctm_fast.inference.foreign_module import call_of
from ctm_fast.inference.foreign_wrappers import SCALED_NETWORKS, CTMNetwork, DenoisingNetwork

from ..models.tiny import ADM, SONG
from . import stand_ins as host

PLAIN = dataclasses.replace(SONG, label_dim=0, augment_dim=0)


@pytest.fixture(scope="module")
def denoiser():
    module = host.EDMPrecond(host.SongUNet(SONG), sigma_max=50.0).eval()
    return module, freeze(module, torch.float32)


def test_the_calls_are_those_that_they_say():
    for kind in SCALED_NETWORKS:
        assert kind.parameters_of_call == call_of(kind.__new__(kind))


def test_the_host_finds_its_attributes(denoiser):
    module, frozen = denoiser
    assert isinstance(frozen, DenoisingNetwork)
    for name in ("sigma_min", "sigma_max", "sigma_data", "img_channels", "img_resolution"):
        assert getattr(frozen, name) == getattr(module, name)
    assert frozen.label_dim == 3 and frozen.sigma_max == 50.0
    given = torch.tensor([0.5, 3.0]).double()
    assert frozen.round_sigma(given) is given and frozen.round_sigma(2.0) == 2.0


def test_labels_levels_and_dtypes(denoiser):
    module, frozen = denoiser
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    for sigma in (torch.tensor(0.7).double(), torch.tensor([0.7]), torch.tensor([0.7, 9.0])):
        for labels in (None, torch.eye(3)[:1], torch.eye(3)[:2].double()):
            found = frozen(x, sigma, labels, force_fp32=True)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, module(x, sigma, labels), rtol=1e-5, atol=1e-5)
    assert torch.equal(frozen(x, 0.7), frozen(x, torch.tensor(0.7)))


def test_augmentation_labels_reach_the_network(denoiser):
    module, frozen = denoiser
    x, sigma, augment = torch.randn(2, 2, 8, 8), torch.tensor([0.7, 9.0]), torch.randn(2, 2)
    expected = module(x, sigma, augment_labels=augment)
    found = frozen(x, sigma, augment_labels=augment)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found - frozen(x, sigma)).abs().max() > 1e-3


def test_discrete_levels_are_rounded():
    config = dataclasses.replace(ADM, min_group=4)
    module = host.iDDPMPrecond(host.DhariwalUNet(config, variance=True)).eval()
    frozen = freeze(module, torch.bfloat16)
    asked = torch.tensor([[0.0, 0.3], [7.0, 1e5]]).double()
    for named in ({}, {"return_index": True}):
        expected, found = (m.round_sigma(asked, **named) for m in (module, frozen))
        assert torch.equal(found, expected) and found.dtype == expected.dtype
    frozen.move(torch.device("cpu"))
    assert frozen.half().levels.value.dtype == torch.float32
    del module.u
    module.u = None
    with pytest.raises(ValueError, match="iDDPMPrecond has no table u"):
        freeze(module)


def test_a_class_of_another_name_is_recognised_by_what_it_computes():
    class Consistent(host.Precond):
        sigma_min = 0.02
        scalings = host.ECMPrecond.scalings

    found = freeze(Consistent(host.SongUNet(PLAIN)), torch.float32)
    assert found.precond.inner.shift == 0.02 and found.host_class == "Consistent"


def test_other_scalings_are_refused():
    class Other(host.EDMPrecond):
        def scalings(self, sigma):
            skip, out, scale, noise = super().scalings(sigma)
            return skip, out, scale, noise + 0.1

    with pytest.raises(ValueError, match=r"Other scales .*EDMPrecond: differs by 0\.\d.*its \.mo"):
        freeze(Other(host.SongUNet(PLAIN)))


def test_times_of_ctm():
    module = host.EDMPrecond_CTM(
        host.SongTrajectory(dataclasses.replace(SONG, destination=True, augment_dim=0))
    ).eval()
    frozen = freeze(module, torch.float32)
    assert isinstance(frozen, CTMNetwork)
    x, time = torch.randn(2, 2, 8, 8), 250 * torch.tensor([80.0, 0.5]).log()
    to, classes = 250 * torch.tensor([3.0, 0.002]).log(), torch.tensor([2, 1])
    for named in ({}, {"y": classes}):
        expected = module(x, time, s=to, **named)
        torch.testing.assert_close(frozen(x, time, to, **named), expected, rtol=1e-4, atol=1e-5)
    frozen.convert_to_fp16()
    frozen.convert_to_fp32()
    with pytest.raises(ValueError, match=r"takes y only, got \['z'\]"):
        frozen(x, time, to, z=1)
    module.teacher = True
    with pytest.raises(ValueError, match=r"teacher=True: freeze its \.model instead"):
        freeze(module)
    assert math.isinf(host.EDMPrecond.sigma_max)
