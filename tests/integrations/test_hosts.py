"""What the doors share."""

import logging
import subprocess
import sys

import pytest
import torch
from torch import nn

import ctm_fast.integrations
from ctm_fast.integrations.hosts import HostModel, kind_of, refuse, sampling

from ..sampler.worlds import small_model
from .tiny_hosts import ECMPrecond, EDMPrecond, TinyEDM


def test_kinds_that_are_certain(caplog):
    with caplog.at_level(logging.INFO, "ctm_fast"):
        assert kind_of(EDMPrecond()) == "denoiser"
        assert kind_of(ECMPrecond()) == "consistency"
    assert "took the network (ECMPrecond) for a consistency" in caplog.text
    for kind in ("denoiser", "consistency", "trajectory"):
        assert kind_of(small_model(kind)) == kind
        assert kind_of(small_model("trajectory"), kind) == kind


def test_kinds_that_are_not():
    with pytest.raises(ValueError, match="say kind="):
        kind_of(TinyEDM())
    with pytest.raises(ValueError, match="unknown kind 'velocity'"):
        kind_of(TinyEDM(), "velocity")
    with pytest.raises(ValueError, match="says it is of kind 'consistency'"):
        kind_of(small_model("consistency"), "trajectory")
    with pytest.raises(ValueError, match="has none"):
        kind_of(nn.Identity(), "trajectory")


def test_host_model():
    def denoise(x, sigma, shift=0):
        return (x / 2 + shift).double()

    x, sigma = torch.ones(1, 1, 2, 2), torch.ones(1)
    consistency = HostModel(denoise, "consistency", 0.1)
    assert consistency(x, sigma).dtype == torch.float32
    assert torch.equal(consistency.jump(x, sigma, sigma, shift=1), x / 2 + 1)
    with pytest.raises(ValueError, match="'denoiser' cannot jump"):
        HostModel(denoise).jump(x, sigma, sigma)
    moved = HostModel(denoise, "trajectory", jump=lambda x, t, s: x + t + s)
    assert torch.equal(moved.jump(x, sigma, sigma), x + 2)


def test_refuse():
    refuse("here", {}, ("a",))
    with pytest.raises(ValueError, match="here does not take b=1, c=2; it takes a"):
        refuse("here", {"b": 1, "c": 2}, ("a",))


def test_sampling_restores_modes_after_an_error():
    model = nn.Sequential(nn.Identity(), nn.Identity()).train()
    model[0].eval()
    with pytest.raises(RuntimeError), sampling(model, None, object()):
        assert not model.training and not torch.is_grad_enabled()
        raise RuntimeError
    assert [m.training for m in model.modules()] == [True, False, True]
    assert torch.is_grad_enabled()


def test_doors_are_imported_on_first_use():
    assert "karras" in dir(ctm_fast.integrations)
    assert ctm_fast.integrations.karras.karras_sample
    with pytest.raises(AttributeError, match="comfy"):
        _ = ctm_fast.integrations.comfy
    code = (
        "import sys, ctm_fast; ctm_fast.integrations; ctm_fast.integrations.edm.EDMSampler;"
        "assert 'ctm_fast.integrations.karras' not in sys.modules;"
        "assert not {'diffusers', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
