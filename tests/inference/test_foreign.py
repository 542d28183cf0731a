"""Modules of other code bases come back faster, with their call and their answers."""

import copy
import dataclasses
import logging
import pickle

import pytest
import torch
from torch import nn

import ctm_fast as cf
from ctm_fast.inference import freeze
from ctm_fast.inference.foreign import accelerated, unwrapped
from ctm_fast.integrations.ect import ECTGenerator
from ctm_fast.integrations.edm import EDMSampler
from ctm_fast.models import UNet
from ctm_fast.wrappers.known import facts

from ..models.test_unet import NCSN
from ..models.tiny import ADM, SONG
from . import stand_ins as host

DHARIWAL = dataclasses.replace(ADM, min_group=4, augment_dim=2)
PLAIN = dataclasses.replace(SONG, label_dim=0, augment_dim=0)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03, torch.float16: 5e-3}


def destined(config):
    return dataclasses.replace(config, destination=True, augment_dim=0)


MODULES = {
    "EDM, DDPM++": lambda: host.EDMPrecond(host.SongUNet(SONG)),
    "EDM, NCSN++": lambda: host.EDMPrecond(host.SongUNet(NCSN), sigma_data=0.3),
    "EDM, ADM": lambda: host.EDMPrecond(host.DhariwalUNet(DHARIWAL)),
    "VP": lambda: host.VPPrecond(host.SongUNet(PLAIN)),
    "VE": lambda: host.VEPrecond(host.SongUNet(NCSN)),
    "iDDPM": lambda: host.iDDPMPrecond(host.DhariwalUNet(DHARIWAL, variance=True)),
    "ECT": lambda: host.ECMPrecond(host.SongUNet(SONG), sigma_min=0.01),
    "raw Song": lambda: host.SongUNet(SONG),
    "raw Dhariwal": lambda: host.DhariwalUNet(DHARIWAL, variance=True),
    "ctm-cifar10": lambda: host.EDMPrecond_CTM(host.SongTrajectory(destined(SONG))),
    "raw ctm-cifar10": lambda: host.SongTrajectory(destined(PLAIN)),
    "openai": lambda: host.UNetModel(ADM),
    "guided-diffusion": lambda: host.UNetModel(ADM, order="legacy", variance=True),
    "sony": lambda: host.TrajectoryModel(destined(ADM)),
    "sony's teacher": lambda: host.TrajectoryModel(dataclasses.replace(ADM, label_dim=0)),
}
SOME = ("EDM, NCSN++", "iDDPM", "ctm-cifar10", "guided-diffusion", "sony")


def question(module, batch=3):
    """Arguments of one call, other than those of the comparison."""
    generator = torch.Generator().manual_seed(5)
    inner = getattr(module, "model", module)
    config = inner.nets[0].config
    x = torch.randn(batch, config.img_channels, 8, 8, generator=generator)
    t, s = torch.tensor([0.4, -0.8, 0.1]), torch.tensor([-1.0, -1.2, 0.0])
    classes = torch.arange(batch) % max(config.label_dim, 1)
    rows = torch.eye(max(config.label_dim, 1))[classes] if config.label_dim else None
    if isinstance(module, host.Precond):
        sigma = torch.tensor([0.06, 0.9, 30.0]).double()
        return (x.double() * sigma.reshape(-1, 1, 1, 1), sigma, rows), {}
    if isinstance(module, host.EDMPrecond_CTM | host.UNetModel):
        named = {"y": classes} if config.label_dim else {}
        return (x, 500 * t), named | ({"s": 500 * s} if config.destination else {})
    if isinstance(module, host.SongTrajectory):
        return (x, t, s, rows), {}
    augment = {"augment_labels": torch.randn(batch, config.augment_dim, generator=generator)}
    return (x, t, rows), augment if config.augment_dim else {}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in MODULES]
    + [(name, torch.bfloat16) for name in SOME]
    + [(name, torch.float16) for name in ("EDM, NCSN++", "sony")],
)
def test_it_answers_as_the_original_does(name, dtype):
    module = MODULES[name]().eval()
    frozen = freeze(module, dtype)
    args, named = question(module)
    expected, found = module(*args, **named), frozen(*args, **named)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert (found - expected).norm() <= TOLERANCE[dtype] * expected.norm()
    nets = [part for part in frozen.modules() if isinstance(part, UNet)]
    assert len(nets) == 1 and {p.dtype for p in nets[0].parameters()} == {dtype}


@pytest.mark.parametrize("name", SOME)
def test_it_is_copied_and_pickled(name):
    module = MODULES[name]()
    frozen = freeze(module, torch.bfloat16)
    args, named = question(module)
    expected = frozen(*args, **named)
    for twin in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        assert torch.equal(twin(*args, **named), expected)


def test_the_original_is_left_alone():
    module = MODULES["EDM, DDPM++"]().train()
    module.model.enc.eval()
    before = copy.deepcopy(module.state_dict())
    frozen = freeze(module)
    assert module.training and not module.model.enc.training and module.model.dec.training
    assert all(p.requires_grad for p in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    assert not own & {p.untyped_storage().data_ptr() for p in frozen.parameters()}
    assert not frozen.train().training and not any(m.training for m in frozen.modules())


def test_released_memory_is_free():
    module = MODULES["openai"]().eval()
    args, named = question(module)
    expected = module(*args, **named)
    frozen = freeze(module, torch.float32, release=True)
    assert sum(p.numel() for p in module.parameters()) == 0
    assert (frozen(*args, **named) - expected).norm() <= 1e-5 * expected.norm()


def test_what_the_keys_do_not_show_is_tried():
    """Neither the order of the attention nor its heads: 8 candidates."""
    for order in ("new", "legacy"):
        module = host.UNetModel(ADM, order=order, told=False).eval()
        frozen = freeze(module, torch.float32)
        assert frozen.unet.config.channels_per_head == 32
        assert f"attention_order={order!r}, channels_per_head=32" in frozen.notes[1]
        known = freeze(module, torch.float32, attention_order=order, channels_per_head=32)
        assert len(known.notes) == 1
        other = {"new": "legacy", "legacy": "new"}[order]
        with pytest.raises(ValueError, match=r"Tried: layout 'adm.*': differs by 0\.\d+"):
            freeze(module, torch.float32, attention_order=other, channels_per_head=32)


def test_overrides():
    module = host.UNetModel(ADM, told=False)
    module.image_size = None
    assert freeze(module, None, img_resolution=8).unet.img_resolution == 8
    with pytest.raises(ValueError, match=r"\['colour'\] mean nothing to this network"):
        freeze(module, colour=1)
    with pytest.raises(ValueError, match=r"\['eps'\] mean nothing to a frozen network"):
        freeze(freeze(module, None, img_resolution=8), eps=1e-5)
    with pytest.raises(ValueError, match="mean nothing to a network of ctm_fast"):
        freeze(host.randomised(ADM).float(), eps=1e-5)


def test_half_precision_of_the_original_is_left_out_and_said(caplog):
    module = host.UNetModel(ADM)
    module.use_fp16 = True
    with caplog.at_level(logging.INFO, "ctm_fast"):
        frozen = freeze(module, torch.float32)
    assert frozen.use_fp16 is False and "float16 is left out" in caplog.text
    frozen.convert_to_fp16()
    assert {p.dtype for p in frozen.parameters()} == {torch.float32}


def test_a_module_that_differs_is_refused():
    module = MODULES["EDM, DDPM++"]().eval()
    with pytest.raises(ValueError, match=r"differs from the original by 0\.00\d+ .* 1e-05"):
        freeze(module, torch.bfloat16, tolerance=1e-5)
    with torch.no_grad():
        module.model.map_layer0.bias += 1
    with pytest.raises(ValueError, match=r"no network .* this SongUNet gives.* differs by 0\.\d"):
        freeze(module)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(2, 2), r"got Linear, called as \(input\), .* no network .*2 keys"),
        (nn.Sequential(nn.Conv2d(1, 1, 1)), r"freeze takes a Denoiser .*got Sequential"),
    ],
)
def test_other_modules_are_refused_in_words(module, message):
    with pytest.raises(ValueError, match=message):
        freeze(module)


def test_layouts_and_calls_must_fit_together():
    class Odd(host.UNetModel):
        def forward(self, x, noise_labels, class_labels, augment_labels=None):
            return x

    with pytest.raises(ValueError, match=r"got Odd, called as .*, for example input_blocks"):
        freeze(Odd(ADM))


def test_wrapped_and_frozen_modules():
    module = MODULES["openai"]().eval()
    args, named = question(module)
    assert unwrapped(nn.DataParallel(module)) is module and unwrapped(module) is module
    once = freeze(nn.DataParallel(module), torch.float32)
    twice = freeze(once, torch.bfloat16)
    assert twice is not once and twice.unet is not once.unet
    assert {p.dtype for p in once.parameters()} == {torch.float32}
    assert (twice(*args, **named) - once(*args, **named)).norm() < 0.03 * once(
        *args, **named
    ).norm()
    scaled = freeze(freeze(MODULES["VP"](), torch.float32), torch.bfloat16)
    assert {p.dtype for p in scaled.unet.parameters()} == {torch.bfloat16}


def test_the_samplers_take_it_for_the_original():
    module = MODULES["EDM, DDPM++"]().eval()
    frozen = freeze(module, torch.bfloat16)
    assert facts(frozen) == facts(module) and facts(frozen)["kind"] == "denoiser"
    options = {"labels": [0, 1], "seed": 3}
    expected = cf.Sampler(module, steps=3, method="heun")(**options)
    sampler = cf.Sampler(frozen, steps=3, method="heun")
    found = sampler(**options)
    assert "EDMPrecond as denoiser" in repr(sampler)
    assert (found - expected).norm() <= 0.03 * expected.norm()
    seen = []
    frozen.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    sampler(**options)
    assert set(seen) == {torch.float32}, "images are not rounded to the weights' dtype"


def test_the_doors_take_it_for_the_original():
    labels = torch.eye(3)[[0, 2]]
    latents = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    for name, door in (("EDM, DDPM++", EDMSampler(steps=3)), ("ECT", ECTGenerator())):
        module = MODULES[name]().eval()
        expected = door(module, latents, labels)
        found = door(freeze(module, torch.float32), latents, labels)
        assert found.dtype == expected.dtype
        assert (found - expected).norm() <= 1e-5 * expected.norm(), name


def test_it_is_public():
    assert cf.accelerate is cf.freeze is freeze
    assert accelerated.__module__ == "ctm_fast.inference.foreign"
