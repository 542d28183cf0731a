"""Frozen networks equal the originals and are laid out for the machine."""

import copy
import dataclasses
import pickle
import weakref

import pytest
import torch
from torch import nn

import ctm_fast as cf
from ctm_fast.denoiser import Denoiser
from ctm_fast.inference import PackedConv2d, fast_dtype, freeze
from ctm_fast.inference.fp8 import Fp8Pointwise, why_not
from ctm_fast.models import net_from_config
from ctm_fast.models.unet import blocks_of
from tests.models.test_unet import CONFIGS
from tests.models.tiny import SONG, inputs, randomised

DTYPES = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}
each = pytest.mark.parametrize("name", CONFIGS)


def network(name="ddpmpp", seed=0):
    return randomised(CONFIGS[name], seed).float()


def given(name="ddpmpp", dtype=torch.float32):
    drawn = inputs(CONFIGS[name])
    return drawn["x"].to(dtype), drawn["c_noise"].float(), None, drawn["classes"]


@each
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_equals_the_original(name, dtype):
    net = network(name)
    frozen = freeze(net, dtype)
    expected = net(*given(name))
    found = frozen(*given(name, dtype))
    assert found.dtype == dtype
    assert (found - expected).norm() <= DTYPES[dtype] * expected.norm()
    assert list(frozen.state_dict()) == list(net.state_dict())


def test_the_original_is_left_alone():
    net = network().train()
    net.enc.eval()
    state = copy.deepcopy(net.state_dict())
    frozen = freeze(net)
    assert net.training and not net.enc.training and net.dec.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in net.parameters())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    assert not own & {p.untyped_storage().data_ptr() for p in frozen.parameters()}
    assert not any(isinstance(m, PackedConv2d) for m in net.modules())


def test_it_is_laid_out_for_a_cpu():
    frozen = freeze(network())
    assert not frozen.training
    assert {p.dtype for p in frozen.parameters()} == {fast_dtype("cpu")}
    assert not any(p.requires_grad for p in frozen.parameters())
    convolutions = [m for m in frozen.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions and all(isinstance(m, PackedConv2d) for m in convolutions)
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)
    affine = [block.affine.weight for block in blocks_of(frozen.enc)]
    assert len({weight.untyped_storage().data_ptr() for weight in affine}) == 1


def test_dtype_none_keeps_the_weights():
    net = network()
    frozen = freeze(net, None)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), frozen.parameters()))


def test_a_denoiser_stays_a_denoiser():
    model = Denoiser(network(), kind="consistency", sigma_min=0.01, sigma_max=50.0)
    frozen = freeze(model, torch.bfloat16)
    assert isinstance(frozen, Denoiser) and frozen.kind == "consistency"
    assert (frozen.sigma_min, frozen.sigma_max) == (0.01, 50.0)
    assert frozen.precond == model.precond
    x, labels = 3 * given()[0], given()[3]
    found = frozen(x, 3.0, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, model(x, 3.0, labels), rtol=0.05, atol=0.05)


def test_released_memory_is_free():
    net = network()
    sizes = sum(p.nbytes for p in net.parameters())
    old = [weakref.ref(p.untyped_storage()) for p in net.parameters()]
    with torch.no_grad():
        expected = net(*given())
    frozen = freeze(net, torch.bfloat16, release=True)
    assert frozen is net
    assert 2 * sum(p.nbytes for p in frozen.parameters()) == sizes
    assert all(ref() is None for ref in old)
    found = frozen(*given(dtype=torch.bfloat16))
    assert (found - expected).norm() <= 0.03 * expected.norm()


def test_gradients_reach_the_images():
    net = network()
    frozen = freeze(net, torch.float32)
    x, *rest = given()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    net(a, *rest).square().sum().backward()
    frozen(b, *rest).square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)


def test_a_network_that_differs_is_refused(monkeypatch):
    with pytest.raises(
        ValueError, match=r"differs from the original by 0\.0\d+ .* tolerance 1e-05"
    ):
        freeze(network(), torch.bfloat16, tolerance=1e-5)
    broken = network()
    monkeypatch.setattr(PackedConv2d, "forward", lambda self, x: nn.Conv2d.forward(self, x) * 1.5)
    with pytest.raises(ValueError, match="choose another dtype"):
        freeze(broken, torch.float32)
    freeze(broken, torch.float32, tolerance=10.0)


def test_not_a_number_is_refused():
    net = network()
    with torch.no_grad():
        net.input_conv.weight[0] = float("nan")
    with pytest.raises(ValueError, match="differs from the original by nan"):
        freeze(net)


@each
def test_the_last_layer_is_still_found(name):
    assert isinstance(freeze(network(name)).last_layer, PackedConv2d)


def test_weights_are_packed_for_the_batch():
    frozen = freeze(network(), batch=5)
    kept = {shape[0] for m in frozen.modules() if isinstance(m, PackedConv2d) for shape in m._packs}
    assert kept == {5}


def test_untrained_networks_can_be_frozen():
    freeze(net_from_config(SONG))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (nn.Linear(2, 2), {}, r"takes a Denoiser or a network of ctm_fast\.models, .*; got Linear"),
        (None, {"dtype": torch.int8}, "dtype is torch.int8; choose from"),
        (None, {"batch": 0}, "batch is 0"),
    ],
)
def test_bad_arguments(model, options, message):
    with pytest.raises(ValueError, match=message):
        freeze(network() if model is None else model, **options)


def test_it_is_frozen_under_inference_mode_too():
    with torch.inference_mode():
        frozen = freeze(network(), torch.float32)
    x, *rest = given()
    frozen(x.requires_grad_(), *rest).sum().backward()
    assert x.grad is not None


def test_it_is_copied_and_pickled():
    frozen = freeze(Denoiser(network()), torch.bfloat16)
    x, labels = given()[0], given()[3]
    expected = frozen(x, 1.0, labels)
    for twin in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        assert torch.equal(twin(x, 1.0, labels), expected)


def test_a_frozen_network_can_be_frozen_again():
    once = freeze(network(), torch.float32)
    twice = freeze(once, torch.float32)
    assert torch.equal(once(*given()), twice(*given()))


def test_eight_bits():
    wide = dataclasses.replace(SONG, model_channels=32)
    net = randomised(wide).float()
    if why_not("cpu") is not None:
        with pytest.raises(ValueError, match="fp8 cannot run here"):
            freeze(net, torch.bfloat16, fp8=True)
        return
    frozen = freeze(net, torch.bfloat16, fp8=True)
    assert any(isinstance(m, Fp8Pointwise) for m in frozen.modules())
    x, c_noise, _, labels = given()
    expected = freeze(net, torch.bfloat16)(x.bfloat16(), c_noise, None, labels).float()
    error = (frozen(x.bfloat16(), c_noise, None, labels) - expected).norm()
    assert 0 < error <= 0.1 * expected.norm()
    with pytest.raises(ValueError, match=r"torch\.bfloat16; this one is in torch\.float32"):
        freeze(net, torch.float32, fp8=True)


def test_it_is_public():
    assert cf.freeze is freeze and cf.fast_dtype is fast_dtype


@pytest.mark.gpu
@each
def test_on_a_gpu(name):
    net = network(name)
    frozen = freeze(net, device="cuda")
    x, c_noise, _, labels = given(name, torch.bfloat16)
    found = frozen(x.cuda(), c_noise.cuda(), None, labels.cuda()).cpu()
    expected = net(*given(name))
    assert (found - expected).norm() <= 0.05 * expected.norm()
